/*
 * dtype.h - what `dtype: auto` means for this job, decided once.
 *
 * bf16 for a role all of whose ranks have a device that multiplies it, else f32; a teacher without ranks
 * of its own runs on the student's. What a checkpoint holds wins over that. The job then has the words
 * that hold, and so has the job.yaml that is written.
 */
#ifndef KD_WORKER_DTYPE_H
#define KD_WORKER_DTYPE_H

#include "worker/worker.h"

/* All ranks, once their roles are assigned and the point of resume is known. */
KD_MUST_USE kd_status dtype_resolve(worker *w);

/* The word that holds: the wish, unless that is auto. resolved: what a checkpoint says, or NULL. */
Kd__Dtype
dtype_choose(Kd__Dtype wish, const kd_dtype *resolved, int64_t n_ranks, int64_t n_multiply);

#endif
