/* job_fixture.h - the least job file, with changes. For tests of lib/job. */
#ifndef KD_TESTS_UNIT_JOB_FIXTURE_H
#define KD_TESTS_UNIT_JOB_FIXTURE_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "job/job.h"
#include "message/reflect.h"

static inline void be_quiet(void)
{
    kd_fault_quiet(1);
}

/* The least that a job with a teacher needs. */
static const char least[] = "output: /out\n"
                            "seed: 3\n"
                            "data: {files: [/a.txt]}\n"
                            "student:\n"
                            "  model: {hidden_size: 64, num_layers: 2, num_heads: 4, "
                            "intermediate_size: 96, num_experts: 4}\n"
                            "teachers: [{checkpoint: /m}]\n"
                            "training: {steps: 100}\n";

static inline Kd__Job *parse(const char *const *sets, size_t n_sets)
{
    Kd__Job *job = NULL;
    cr_assert(eq(int, kd_job_parse(least, sizeof least - 1, "job.yaml", sets, n_sets, &job), KD_OK),
              "%s", kd_fault_text());
    return job;
}

static inline Kd__Job *complete(const char *const *sets, size_t n_sets)
{
    Kd__Job *job = parse(sets, n_sets);
    cr_assert(eq(int, kd_job_complete(job), KD_OK));
    return job;
}

static inline void destroy(Kd__Job *job)
{
    kd_message_destroy(&job->base);
}

static inline void replace(char **text, const char *by)
{
    free(*text);
    *text = strdup(by);
}

#endif
