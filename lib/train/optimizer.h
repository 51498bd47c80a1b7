/*
 * optimizer.h - AdamW over the flat master weights of each group, its norm clipped.
 *
 * Matrices decay where their group says so, vectors (norms, biases) never do. Each group's gradient
 * is measured and clipped by itself and has a learning rate of its own, a factor times the step's. In
 * bf16 training the pass that updates the master weights also writes the copy that products read. A
 * frozen group has no moments and stays as it is. The moments' bias is corrected by the number of updates
 * that were made: a step that made none leaves it as it was.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TRAIN_OPTIMIZER_H
#define KD_TRAIN_OPTIMIZER_H

#include "model/group.h"
#include "proto/job.pb-c.h"
#include "train/reduce_staged.h"

typedef struct kd_moments {
    kd_tensor m, v; /* (n_elements) f32; none of a frozen group */
} kd_moments;

typedef struct kd_optimizer {
    kd_backend *be;
    const Kd__Training *training; /* borrowed: betas, epsilon, decay */
    kd_group groups[KD_GROUPS_MAX];
    int n_groups;
    kd_moments moments[KD_GROUPS_MAX]; /* of each group                                        */
    kd_tensor norm_sq;                 /* (n_groups) f64: of each one's gradient, 0 of a frozen */
    uint64_t n_updates;                /* made so far: what the moments' bias is corrected by   */
    kd_reduce_stage stage;             /* of gradients that are a device's                     */
    void *slab;
    size_t slab_bytes;
} kd_optimizer;

/*
 * Zero moments. 1 <= n <= KD_GROUPS_MAX groups, copied, all of one back end. `training` is read at each
 * update, and outlives the optimizer.
 */
KD_MUST_USE kd_status kd_optimizer_create(const kd_group *groups,
                                          int n,
                                          const Kd__Training *training,
                                          kd_optimizer **optimizer_out);
void kd_optimizer_destroy(kd_optimizer *optimizer);

/* Begins a step: gradients of the one before are written over by the first that come. */
void kd_optimizer_clear(kd_optimizer *optimizer);

/* Once all have come: those that nobody gave are 0. */
void kd_optimizer_settle(kd_optimizer *optimizer);

/* Each group's gradient becomes the sum over all ranks: one reduction a trained group, in their order. */
KD_MUST_USE kd_status kd_optimizer_reduce(kd_optimizer *optimizer, const kd_reduce *reduce);

/* Puts the sum of squares of each group's gradient into norm_sq. */
void kd_optimizer_measure(kd_optimizer *optimizer);

/*
 * One update by the gradients, clipped by norm_sq. Nothing changes unless norm_sq and `sums` (k) f64, or
 * none, are all finite: the back end sees to it, so that the host may learn of them later.
 */
void kd_optimizer_apply(kd_optimizer *optimizer, double learning_rate, kd_tensor sums);

/* The update applied last was made: the host has seen that all was finite. The next one is another. */
void kd_optimizer_count_update(kd_optimizer *optimizer);

#endif
