/* small_job.h - a job of a small student and one teacher, but for its training. For tests of the worker. */
#ifndef KD_TESTS_UNIT_SMALL_JOB_H
#define KD_TESTS_UNIT_SMALL_JOB_H

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/log.h"
#include "job/job.h"

/* Completed and checked. */
static inline Kd__Job *job_of(const char *text)
{
    Kd__Job *job = NULL;
    cr_assert(eq(int, kd_job_parse(text, strlen(text), "job.yaml", NULL, 0, &job), KD_OK));
    cr_assert(eq(int, kd_job_complete(job), KD_OK));
    cr_assert(eq(int, kd_job_check(job, NULL), KD_OK), "%s", kd_fault_text());
    return job;
}

#define SMALL                                                                                      \
    "output: /out\n"                                                                               \
    "data: {files: [/text], sequence_length: 64, held_out: 0}\n"                                   \
    "student: {model: {type: qwen3_moe, hidden_size: 32, num_layers: 2, num_heads: 4, "            \
    "intermediate_size: 48, num_experts: 4}}\n"                                                    \
    "teachers: [{checkpoint: /teacher, transport: hidden}]\n"

#endif
