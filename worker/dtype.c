#include "worker/dtype.h"

#include <stdlib.h>

#include "base/log.h"
#include "tensor/ops.h"

static Kd__Dtype word_of(kd_dtype dtype)
{
    return dtype == KD_F32 ? KD__DTYPE__F32 : KD__DTYPE__BF16;
}

Kd__Dtype
dtype_choose(Kd__Dtype wish, const kd_dtype *resolved, int64_t n_ranks, int64_t n_multiply)
{
    if (wish != KD__DTYPE__AUTO) {
        return wish;
    }
    return word_of(resolved != NULL ? *resolved : kd_dtype_auto(n_ranks, n_multiply));
}

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

static void resolve(Kd__Job *job, const kd_checkpoint_dtypes *known, const role_count *counts)
{
    job->training->has_dtype = 1;
    job->training->dtype = dtype_choose(job->training->dtype, known->known ? &known->student : NULL,
                                        counts[0].n_ranks, counts[0].n_multiply);
    for (size_t i = 0; i < job->n_teachers; i++) {
        Kd__Teacher *teacher = job->teachers[i];
        const role_count *of = counts[1 + i].n_ranks > 0 ? &counts[1 + i] : &counts[0];
        const bool told = known->known && (int)i < known->n_teachers;
        teacher->has_dtype = 1;
        teacher->dtype = dtype_choose(teacher->dtype, told ? &known->teachers[i] : NULL,
                                      of->n_ranks, of->n_multiply);
    }
}

/* For the checkpoints to come. */
static void remember(const Kd__Job *job, kd_checkpoint_dtypes *dtypes)
{
    *dtypes = (kd_checkpoint_dtypes){.known = true, .n_teachers = (int)job->n_teachers};
    dtypes->student = job->training->dtype == KD__DTYPE__F32 ? KD_F32 : KD_BF16;
    for (size_t i = 0; i < job->n_teachers; i++) {
        dtypes->teachers[i] = job->teachers[i]->dtype == KD__DTYPE__F32 ? KD_F32 : KD_BF16;
    }
}

kd_status dtype_resolve(worker *w)
{
    KD_CHECK(w->job->n_teachers <= KD_CHECKPOINT_TEACHERS_MAX);
    role_count *counts = calloc(1 + w->job->n_teachers, sizeof *counts);
    if (counts == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %zu teachers", w->job->n_teachers);
    }
    const kd_status st = count_ranks(w, counts);
    if (!st) {
        resolve(w->job, &w->resume.dtypes, counts);
        remember(w->job, &w->resume.dtypes);
    }
    free(counts);
    return st;
}
