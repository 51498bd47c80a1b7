/*
 * auto.c - ranks differ, the job has one answer: counted over the ranks of a role, so that one old node
 * makes all of them f32 on their processors rather than ending the job.
 */
#include "worker/auto.h"

#include "tensor/ops.h"
#include "train/device.h"
#include "train/dtype.h"

role_count role_count_here(uint64_t avoided)
{
    return (role_count){1, kd_device_count(avoided) > 0 ? 1 : 0, kd_cpu_multiplies_bf16() ? 1 : 0};
}

static void resolve(Kd__Resources *resources, Kd__Dtype *dtype, const role_count *of)
{
    resources->has_device = 1;
    resources->device = kd_device_choose(resources->device, of->n_ranks, of->n_see);
    const bool cuda = resources->device == KD__RESOURCES__DEVICE__CUDA; /* all that we run on can */
    *dtype = kd_dtype_choose(*dtype, of->n_ranks, cuda ? of->n_ranks : of->n_multiply);
}

void auto_resolve(Kd__Job *job, const role_count *counts)
{
    job->training->has_dtype = 1;
    resolve(job->student->resources, &job->training->dtype, &counts[0]);
    for (size_t i = 0; i < job->n_teachers; i++) {
        Kd__Teacher *teacher = job->teachers[i];
        teacher->has_dtype = 1;
        resolve(teacher->resources, &teacher->dtype,
                counts[1 + i].n_ranks > 0 ? &counts[1 + i] : &counts[0]);
    }
}
