/*
 * dtype.c - ranks differ, the job has one answer: counted over the ranks of a role, so that one old node
 * makes all of them f32 rather than ending the job.
 */
#include "worker/dtype.h"

#include "train/dtype.h"

void dtype_resolve(Kd__Job *job, const role_count *counts)
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
