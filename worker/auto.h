/*
 * auto.h - what `auto` means for a job's devices and dtypes: cuda for a role all of whose ranks see such a
 * device, else cpu; bf16 for one whose devices all multiply it, else f32. A teacher without ranks of its
 * own runs on the student's.
 *
 * Pure.
 */
#ifndef KD_WORKER_AUTO_H
#define KD_WORKER_AUTO_H

#include <stdint.h>

#include "proto/job.pb-c.h"

/* Ranks of a role, how many of them see a CUDA device, and how many have a processor that multiplies bf16. */
typedef struct role_count {
    int64_t n_ranks, n_see, n_multiply;
} role_count;

enum { ROLE_COUNTS = sizeof(role_count) / sizeof(int64_t) };

/* Of this process as one rank, which takes no CUDA device that is avoided (train/device.h). */
role_count role_count_here(uint64_t avoided);

/* counts[0] of the students, counts[1 + i] of teacher i: the job then has the words that hold. */
void auto_resolve(Kd__Job *job, const role_count *counts);

#endif
