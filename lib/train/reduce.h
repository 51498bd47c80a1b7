/*
 * reduce.h - sums over the student ranks, as the training step sees them.
 *
 * Over MPI it is kd_world_reduce() of comm/world.h; for one student rank kd_reduce_single(), which does
 * nothing. Every student rank makes the same calls in the same order; each call blocks until its
 * values are the sum over all ranks, bitwise the same on each.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TRAIN_REDUCE_H
#define KD_TRAIN_REDUCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/*
 * Elements that are summed at once: enough for full bandwidth, far below the INT_MAX of MPI's counts. Fixed,
 * because the library's algorithm, and with it the order of the additions, may depend on the count: the same
 * sums on the same ranks must be bitwise the same in a resumed run.
 */
#define KD_REDUCE_PIECE ((int64_t)4 << 20)

typedef struct kd_reduce {
    void *user;
    int rank; /* of this student, 0..n_ranks-1 */
    int n_ranks;
    bool
        takes_device; /* sum_f32's values may be a device's memory that no operation uses meanwhile */
    kd_status (*sum_f32)(void *user, float *values, int64_t n);
    kd_status (*sum_f64)(void *user, double *values, int64_t n);
    kd_status (*sum_i64)(void *user, int64_t *values, int64_t n); /* exact; overflow wraps around */
} kd_reduce;

kd_reduce kd_reduce_single(void);

#endif
