/*
 * attention.h - the first half of a layer: norm and attention.
 *
 *   x   = x_before + delta                      the residual stream, f32
 *   qkv = norm(x) Wqkv^T (+ bias)
 *   q, k are normalised (qwen3_moe, olmoe), then turned by the rotary embedding
 *   delta = attention(q, k, v) Wout^T           added to x by the next norm
 *
 * A layout function carves the tensors for the pass's n_rows; it touches no values. Internal to
 * lib/model. Threads: the thread of the back end.
 */
#ifndef KD_MODEL_ATTENTION_H
#define KD_MODEL_ATTENTION_H

#include "model/pass.h"

typedef struct kd_attention_weights {
    kd_weight norm;           /* (C)                            */
    kd_weight qkv;            /* ((H + 2 G) D, C)               */
    kd_weight qkv_bias;       /* ((H + 2 G) D), or none         */
    kd_weight q_norm, k_norm; /* (D), or (H D) and (G D), or none */
    kd_weight out;            /* (C, H D)                       */
} kd_attention_weights;

/* What the forward pass leaves for the backward pass. */
typedef struct kd_attention_acts {
    kd_tensor x;      /* (N, C) f32, residual stream that enters                              */
    kd_tensor rstd;   /* (N) f32, of the norm                                                 */
    kd_tensor normed; /* (N, C) compute                                                       */
    kd_tensor qkv;    /* (N, (H + 2 G) D) compute; q and k turned in place unless normalised  */
    kd_tensor qk;     /* (N, (H + G) D) compute, q and k normalised and turned; or none       */
    kd_tensor q_rstd; /* (N, H) f32, or (N, 1) where a row is normalised whole; or none       */
    kd_tensor k_rstd; /* (N, G) f32, or (N, 1); or none                                       */
    kd_tensor key;    /* (N, G D) compute, before rotation, where a listener needs it; or none */
    kd_tensor mixed;  /* (N, H D) compute, the attention's output                             */
    kd_tensor lse;    /* (B H, T) f32, log-sum-exp of scores; train                           */
} kd_attention_acts;

/* Buffers of one backward step, shared by all layers. */
typedef struct kd_attention_grads {
    kd_tensor d_out;    /* (N, C) compute, pass->dx as products read it  */
    kd_tensor d_mixed;  /* (N, H D) compute                              */
    kd_tensor d_qk;     /* (N, (H + G) D) compute; or none               */
    kd_tensor d_qkv;    /* (N, (H + 2 G) D) compute                      */
    kd_tensor d_normed; /* (N, C) compute                                */
} kd_attention_grads;

void kd_attention_weights_find(kd_attention_weights *weights,
                               const kd_parameters *params,
                               int64_t layer);
void kd_attention_acts_layout(kd_attention_acts *acts, const kd_pass *pass, kd_arena *arena);
void kd_attention_grads_layout(kd_attention_grads *grads, const kd_pass *pass, kd_arena *arena);

/* Parts of a row of qkv, and what attention reads: the same columns, or those of qk. */
typedef struct kd_qkv {
    kd_tensor q_linear, k_linear; /* (N, H D), (N, G D): what the product wrote */
    kd_tensor q, k, v;            /* (N, H D), (N, G D), (N, G D)               */
    bool normalised;              /* q and k are not q_linear and k_linear      */
    int64_t k_parts;              /* of a row of k, each normalised by itself   */
} kd_qkv;

kd_qkv kd_qkv_of(const kd_model_config *config, kd_tensor qkv, kd_tensor qk);

/* How q is turned, or k. */
static inline kd_rotation kd_rotation_of(const kd_pass *pass, int64_t n_heads)
{
    return (kd_rotation){.table = pass->rope, .positions = pass->positions, .n_heads = n_heads};
}

/* What the operation reads and writes in the forward pass. */
kd_attention kd_attention_of(const kd_pass *pass, const kd_attention_acts *acts, const kd_qkv *qkv);

/* Adds to the gradients of the weights, and to pass->dx what flows through this half. */
void kd_attention_backward(const kd_pass *pass,
                           int64_t layer,
                           const kd_attention_weights *weights,
                           const kd_attention_acts *acts,
                           const kd_attention_grads *grads);

#endif
