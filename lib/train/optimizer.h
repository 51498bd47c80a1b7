/*
 * optimizer.h - AdamW over the flat master weights, with the global norm clipped.
 *
 * Matrices decay, vectors (norms, biases) do not. In bf16 training the pass that updates the
 * master weights also writes the copy that products read.
 */
#ifndef KD_TRAIN_OPTIMIZER_H
#define KD_TRAIN_OPTIMIZER_H

#include "model/parameters.h"

typedef struct kd_optimizer_settings {
    double beta1, beta2, epsilon, weight_decay;
    double clip_norm; /* 0: no clipping */
} kd_optimizer_settings;

/* beta 0.9 and 0.95, epsilon 1e-8, decay 0.1, clip 1. */
kd_optimizer_settings kd_optimizer_defaults(void);

typedef struct kd_optimizer {
    kd_parameters *params; /* borrowed */
    kd_optimizer_settings settings;
    kd_tensor m, v;    /* (n_elements) f32 moments */
    kd_tensor norm_sq; /* (1) f64 */
    void *slab;
} kd_optimizer;

/* Zero moments. `params` must be for training. */
KD_MUST_USE kd_status kd_optimizer_create(kd_parameters *params,
                                          const kd_optimizer_settings *settings,
                                          kd_optimizer **optimizer_out);
void kd_optimizer_destroy(kd_optimizer *optimizer);

/* Puts the sum of squares of params->grad into norm_sq. */
void kd_optimizer_measure(kd_optimizer *optimizer);

/* One update by params->grad, clipped by norm_sq. `update` is 1 for the first. */
void kd_optimizer_apply(kd_optimizer *optimizer, double learning_rate, uint64_t update);

#endif
