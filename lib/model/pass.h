/*
 * pass.h - one micro-batch on its way through the model: its size, and what all layers share.
 *
 * Internal to lib/model.
 */
#ifndef KD_MODEL_PASS_H
#define KD_MODEL_PASS_H

#include "model/parameters.h"

typedef struct kd_pass {
    kd_backend *be;
    const kd_model_config *config;
    bool train;
    int64_t n_batch;       /* B                                                                  */
    int64_t n_tokens;      /* T                                                                  */
    int64_t n_rows;        /* N = B T                                                            */
    kd_tensor rope;        /* (T, D) f32: cosines, sines                                         */
    kd_tensor delta;       /* (N, C) f32: what the last half adds to the residual stream         */
    kd_tensor dx;          /* (N, C) f32: gradient of the residual stream, and so of delta; train */
    kd_tensor router_sums; /* (2) f64: balance, z                                                */
    float balance_weight;  /* of one layer                                                       */
    float z_weight;        /* likewise                                                           */
    void (*on_block)(void *user); /* after each half of a layer, or NULL */
    void *user;                   /* of on_block                         */
} kd_pass;

#endif
