/*
 * block.h - the first half of a layer: norm, attention, and what all blocks of one pass share.
 *
 *   x   = x_before + delta                      the residual stream, f32
 *   qkv = norm(x) Wqkv^T (+ bias)
 *   q, k are normalised (qwen3_moe, olmoe), then turned by the rotary embedding
 *   delta = attention(q, k, v) Wout^T           added to x by the next block's norm
 *
 * A layout function carves the tensors for the pass's n_rows; it touches no values. Internal to
 * lib/model. Threads: the thread of the back end.
 */
#ifndef KD_MODEL_BLOCK_H
#define KD_MODEL_BLOCK_H

#include "model/parameters.h"

/* One micro-batch on its way through the model: its size, and the buffers that blocks share. */
typedef struct kd_pass {
    kd_backend *be;
    const kd_model_config *config;
    bool train;
    int64_t n_batch;       /* B                                                                  */
    int64_t n_tokens;      /* T                                                                  */
    int64_t n_rows;        /* N = B T                                                            */
    kd_tensor rope;        /* (T, D) f32: cosines, sines                                         */
    kd_tensor delta;       /* (N, C) f32: what the last block adds to the residual stream        */
    kd_tensor dx;          /* (N, C) f32: gradient of the residual stream, and so of delta; train */
    kd_tensor router_sums; /* (2) f64: balance, z                                           */
    float balance_weight;  /* of one layer                                                  */
    float z_weight;        /* likewise                                                      */
} kd_pass;

typedef struct kd_block_weights {
    kd_weight norm;           /* (C)                            */
    kd_weight qkv;            /* ((H + 2 G) D, C)               */
    kd_weight qkv_bias;       /* ((H + 2 G) D), or none         */
    kd_weight q_norm, k_norm; /* (D), or (H D) and (G D), or none */
    kd_weight out;            /* (C, H D)                       */
} kd_block_weights;

/* What the forward pass leaves for the backward pass. */
typedef struct kd_block_acts {
    kd_tensor x;      /* (N, C) f32, residual stream that enters                              */
    kd_tensor rstd;   /* (N) f32, of the norm                                                 */
    kd_tensor normed; /* (N, C) compute                                                       */
    kd_tensor qkv;    /* (N, (H + 2 G) D) compute; q and k turned in place unless normalised  */
    kd_tensor qk;     /* (N, (H + G) D) compute, q and k normalised and turned; or none       */
    kd_tensor q_rstd; /* (N, H) f32, or (N, 1) where a row is normalised whole; or none       */
    kd_tensor k_rstd; /* (N, G) f32, or (N, 1); or none                                       */
    kd_tensor mixed;  /* (N, H D) compute, the attention's output                             */
    kd_tensor lse;    /* (B H, T) f32, log-sum-exp of scores; train                           */
} kd_block_acts;

/* Buffers of one backward step, shared by all layers. */
typedef struct kd_block_grads {
    kd_tensor d_out;    /* (N, C) compute, pass->dx as products read it  */
    kd_tensor d_mixed;  /* (N, H D) compute                              */
    kd_tensor d_qk;     /* (N, (H + G) D) compute; or none               */
    kd_tensor d_qkv;    /* (N, (H + 2 G) D) compute                      */
    kd_tensor d_normed; /* (N, C) compute                                */
} kd_block_grads;

void kd_block_weights_find(kd_block_weights *weights, const kd_parameters *params, int64_t layer);
void kd_block_acts_layout(kd_block_acts *acts, const kd_pass *pass, kd_arena *arena);
void kd_block_grads_layout(kd_block_grads *grads, const kd_pass *pass, kd_arena *arena);

/* acts->x = x + delta; pass->delta = what this block adds. delta may be pass->delta, or none where x
 * is acts->x already. */
void kd_block_forward(const kd_pass *pass,
                      const kd_block_weights *weights,
                      const kd_block_acts *acts,
                      kd_tensor x,
                      kd_tensor delta);

/* Adds to the gradients of the weights, and to pass->dx what flows through this block. */
void kd_block_backward(const kd_pass *pass,
                       const kd_block_weights *weights,
                       const kd_block_acts *acts,
                       const kd_block_grads *grads);

#endif
