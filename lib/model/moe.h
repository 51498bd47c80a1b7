/*
 * moe.h - the second half of a layer: norm, then a mixture of experts or one dense MLP.
 *
 *   x      = x_before + delta
 *   y      = norm(x)
 *   dense:   delta = down(swiglu(gate_up(y)))
 *   MoE:     logits = y Wrouter^T; each row goes to its K experts;
 *            delta  = sum over K of weight * down_e(swiglu(gate_up_e(y)))
 *   qwen2_moe adds sigmoid(y Wgate^T) * (dense MLP of y), the shared expert.
 *
 * What backward needs is kept where making it again would cost products, exponentials or sums
 * of a row. The rows as dispatched to experts are a mere copy and K times as wide as the model,
 * so backward gathers them again.
 *
 * Internal to lib/model. Threads: the thread of the back end.
 */
#ifndef KD_MODEL_MOE_H
#define KD_MODEL_MOE_H

#include "model/pass.h"

/* A dense MLP: the whole one of a dense layer, or the shared expert. F is its own width here. */
typedef struct kd_mlp_weights {
    kd_weight gate_up; /* (2 F, C) */
    kd_weight down;    /* (C, F)   */
} kd_mlp_weights;

typedef struct kd_mlp_acts {
    kd_tensor gate_up; /* (N, 2 F) compute */
    kd_tensor hidden;  /* (N, F) compute, after swiglu */
} kd_mlp_acts;

typedef struct kd_mlp_grads {
    kd_tensor d_out;     /* (N, C) compute, of its output */
    kd_tensor d_hidden;  /* (N, F) compute   */
    kd_tensor d_gate_up; /* (N, 2 F) compute */
} kd_mlp_grads;

typedef struct kd_moe_weights {
    kd_weight norm;        /* (C)                                        */
    kd_weight router;      /* (E, C)                                     */
    kd_weight gate_up;     /* (E, 2 F, C)                                */
    kd_weight down;        /* (E, C, F)                                  */
    kd_mlp_weights dense;  /* the layer without experts                  */
    kd_mlp_weights shared; /* the shared expert                          */
    kd_weight shared_gate; /* (1, C)                                     */
} kd_moe_weights;          /* those that the shape lacks are none        */

/* R = kd_expert_rows(be, N, K, E): routed rows in segments, padded. */
typedef struct kd_moe_acts {
    kd_tensor x;           /* (N, C) f32, residual stream that enters           */
    kd_tensor rstd;        /* (N) f32, of the norm                              */
    kd_tensor normed;      /* (N, C) compute                                    */
    kd_tensor logits;      /* (N, E) f32, of the router                         */
    kd_route route;        /* where each row goes, see ops.h                    */
    kd_tensor gate_up;     /* (R, 2 F) compute                                  */
    kd_tensor hidden;      /* (R, F) compute, after swiglu                      */
    kd_tensor out;         /* (R, C) compute, of the experts                    */
    kd_mlp_acts dense;     /* the layer without experts                         */
    kd_mlp_acts shared;    /* the shared expert                                 */
    kd_tensor shared_out;  /* (N, C) compute                                    */
    kd_tensor shared_gate; /* (N, 1) f32, before the sigmoid                    */
} kd_moe_acts;

/* Buffers of one step through a layer, shared by all layers; only `rows` outside training. */
typedef struct kd_moe_grads {
    kd_tensor rows;       /* (R, C) compute, dispatched to the experts                   */
    kd_tensor d_rows;     /* (R, C) compute, gradient of what experts write, then read   */
    kd_tensor d_hidden;   /* (R, F) compute                                              */
    kd_tensor d_gate_up;  /* (R, 2 F) compute                                            */
    kd_tensor d_weights;  /* (N, K) f32, of the routing weights                          */
    kd_tensor d_logits;   /* (N, E) f32                                                  */
    kd_tensor d_router;   /* (N, E) compute, d_logits as products read it                */
    kd_tensor d_normed;   /* (N, C) f32, sum over all readers of acts->normed            */
    kd_tensor d_part;     /* (N, C) compute, of one of them                              */
    kd_mlp_grads mlp;     /* of the dense MLP or the shared expert                       */
    kd_tensor d_gate;     /* (N, 1) f32, of the shared expert's gate                     */
    kd_tensor d_gate_row; /* (N, 1) compute, d_gate as products read it                  */
} kd_moe_grads;

void kd_moe_weights_find(kd_moe_weights *weights, const kd_parameters *params, int64_t layer);
void kd_moe_acts_layout(kd_moe_acts *acts, const kd_pass *pass, kd_arena *arena);
void kd_moe_grads_layout(kd_moe_grads *grads, const kd_pass *pass, kd_arena *arena);

/* Adds to the gradients of the weights, and to pass->dx what flows through this half. */
void kd_moe_backward(const kd_pass *pass,
                     int64_t layer,
                     const kd_moe_weights *weights,
                     const kd_moe_acts *acts,
                     const kd_moe_grads *grads);

#endif
