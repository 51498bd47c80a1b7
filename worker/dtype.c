/*
 * dtype.c - ranks differ, the job has one answer: counted over the ranks of a role, so that one old node
 * makes all of them f32 rather than ending the job.
 */
#include "worker/dtype.h"

#include <stdlib.h>

#include "base/log.h"
#include "tensor/ops.h"
#include "train/dtype.h"

/* Ranks of a role, and how many of them multiply bf16. */
typedef struct role_count {
    int64_t n_ranks, n_multiply;
} role_count;

/* counts[0] of the students, counts[1 + i] of teacher i; the same on every rank. */
static kd_status count_ranks(worker *w, role_count *counts)
{
    const int role =
        kd_world_role(w->world) == KD_ROLE_STUDENT ? 0 : 1 + kd_world_teacher(w->world);
    counts[role] = (role_count){1, kd_cpu_multiplies_bf16() ? 1 : 0};
    return kd_world_sum(w->world, &counts[0].n_ranks, 2 * (1 + (int)w->job->n_teachers));
}

static void resolve(Kd__Job *job, const role_count *counts)
{
    job->training->has_dtype = 1;
    job->training->dtype =
        kd_dtype_choose(job->training->dtype, counts[0].n_ranks, counts[0].n_multiply);
    for (size_t i = 0; i < job->n_teachers; i++) {
        Kd__Teacher *teacher = job->teachers[i];
        const role_count *of = counts[1 + i].n_ranks > 0 ? &counts[1 + i] : &counts[0];
        teacher->has_dtype = 1;
        teacher->dtype = kd_dtype_choose(teacher->dtype, of->n_ranks, of->n_multiply);
    }
}

kd_status dtype_resolve(worker *w)
{
    role_count *counts = calloc(1 + w->job->n_teachers, sizeof *counts);
    if (counts == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %zu teachers", w->job->n_teachers);
    }
    const kd_status st = count_ranks(w, counts);
    if (!st) {
        resolve(w->job, counts);
    }
    free(counts);
    return st;
}
