/*
 * dtype.h - what `dtype: auto` means for a job: bf16 for a role all of whose ranks have a device that
 * multiplies it, else f32; a teacher without ranks of its own runs on the student's.
 *
 * Pure.
 */
#ifndef KD_WORKER_DTYPE_H
#define KD_WORKER_DTYPE_H

#include <stdint.h>

#include "proto/job.pb-c.h"

/* Ranks of a role, and how many of them multiply bf16. */
typedef struct role_count {
    int64_t n_ranks, n_multiply;
} role_count;

/* counts[0] of the students, counts[1 + i] of teacher i: the job then has the words that hold. */
void dtype_resolve(Kd__Job *job, const role_count *counts);

#endif
