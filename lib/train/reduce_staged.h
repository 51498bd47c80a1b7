/*
 * reduce_staged.h - sums over the student ranks of what the host cannot reach: a device's memory.
 *
 * Values come down to the host in pieces of KD_REDUCE_PIECE, are summed there and go up again, on the back
 * end's queue of transfers: while the ranks sum piece i, piece i + 1 comes down and piece i - 1 goes up. The
 * sums are those of reduce->sum_f32() over the same pieces in the same order.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TRAIN_REDUCE_STAGED_H
#define KD_TRAIN_REDUCE_STAGED_H

#include "tensor/ops.h"
#include "train/reduce.h"

/* Host memory of a back end, taken with the first sum; {.be = be} before. */
typedef struct kd_reduce_stage {
    kd_backend *be;
    void *halves[2]; /* of KD_REDUCE_PIECE f32 each */
} kd_reduce_stage;

/*
 * Sums `values`, packed f32 of the device, as operations queued before have left them; those queued later
 * see the sums. Waits for the device. On a fault, the back end's or the reduction's, some of them may
 * have been summed.
 */
KD_MUST_USE kd_status kd_reduce_staged(kd_reduce_stage *stage,
                                       const kd_reduce *reduce,
                                       kd_tensor values);

void kd_reduce_stage_release(kd_reduce_stage *stage);

#endif
