/*
 * arguments.h - what operations with many arguments are given: a struct for each. Shapes, and what may be none, stand
 * with the members; what is done with them, and what "compute" means, stands in ops.h.
 */
#ifndef KD_TENSOR_ARGUMENTS_H
#define KD_TENSOR_ARGUMENTS_H

#include <stdbool.h>

#include "proto/job.pb-c.h"
#include "tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A row with this label is left out of every sum and has no gradient. */
#define KD_LABEL_IGNORED (-100)

/* Where each token goes. Written by `route`, read by every MoE operation. R = kd_expert_rows(be, N, K, E). */
typedef struct kd_route {
    kd_tensor probs;    /* (N, E) f32, softmax of the router's logits                     */
    kd_tensor experts;  /* (N, K) i32, by falling probability; ties go to the lower id    */
    kd_tensor weights;  /* (N, K) f32, probabilities of those, renormalised if asked for  */
    kd_tensor position; /* (N, K) i32, row of that token in its expert's segment          */
    kd_tensor token;    /* (R) i32, token of each row, -1 for padding                     */
    kd_tensor offset;   /* (E + 1) i32, first row of each segment; [E] is the rows in use */
    bool renormalise;   /* weights divided by their sum                                   */
} kd_route;

/*
 * What keeps a router even and its logits small, over the N real rows of one micro-batch:
 *   balance = E * sum_e f_e P_e, f_e the share of the N * K assignments, P_e the mean probability
 *             (Switch Transformer, eq. 4; 1 when even)
 *   z       = mean(logsumexp(logits)^2)  (ST-MoE, eq. 5)
 * The operation adds the gradient of balance_scale * N * balance + z_scale * N * z, as all losses are
 * sums over rows, to d_logits.
 */
typedef struct kd_router_loss {
    kd_tensor logits;   /* (N, E) f32                                    */
    kd_tensor d_logits; /* (N, E) f32, added to; or none                 */
    kd_tensor segments; /* (N) i32, rows of -1 are not real; or none     */
    const kd_route *route;
    float balance_scale, z_scale;
    kd_tensor balance_sum; /* (1) f64 += N * balance; or none            */
    kd_tensor z_sum;       /* (1) f64 += N * z; or none                  */
} kd_router_loss;

typedef struct kd_attention {
    kd_tensor q;        /* (N, H * D) compute, after rotary embedding                       */
    kd_tensor k;        /* (N, G * D) compute, after rotary embedding                       */
    kd_tensor v;        /* (N, G * D) compute                                               */
    kd_tensor out;      /* (N, H * D) compute                                               */
    kd_tensor lse;      /* (B * H, T) f32, log-sum-exp of each row of scaled scores, or none */
    kd_tensor segments; /* (N) i32, runs of equal numbers in a sequence; -1: padding; or none */
    int64_t n_batch, n_tokens, n_heads, n_kv_heads, head_dim;
    int64_t window; /* a row sees itself and the window - 1 rows before it; 0: all before it */
} kd_attention;

/* How rows of (N, heads * D) are turned, see rotate. */
typedef struct kd_rotation {
    kd_tensor table;     /* (T, D) f32: cosines of D/2 angles, then sines                    */
    kd_tensor positions; /* (N) i32 below T, one for each row; or none: that of row n is n mod T */
    int64_t n_heads;
} kd_rotation;

/* What one teacher gives for the loss over the vocabulary: hidden states, or logits. */
typedef struct kd_vocab_teacher {
    kd_tensor hidden;  /* (N, C') f32 or bf16, after the final norm; or none */
    kd_tensor lm_head; /* (V', C') compute, with hidden                      */
    kd_tensor logits;  /* (N, V') f32 or bf16, where there is no hidden      */
    double weight;     /* >= 0; 0: seen by a listener only                   */
} kd_vocab_teacher;

/*
 * A chunk of the rows that take part, as a listener sees it before its gradient is used. Where only the device
 * knows the labels, rows that take no part are among them, with -1 for a number: a listener counts them in no
 * sum; what else stands in such a row says nothing, and what is added to its gradient is taken away.
 */
typedef struct kd_vocab_chunk {
    struct kd_backend *be;
    kd_tensor rows;            /* (R) i32, their numbers in the micro-batch, ascending; or -1 */
    kd_tensor labels;          /* (R) i32, or none                                      */
    kd_tensor student;         /* (R, V) f32 logits                                     */
    const kd_tensor *teachers; /* [n_teachers] (R, V') f32 logits                       */
    int n_teachers;
    kd_tensor d_student; /* (R, V) f32, gradient so far, which may be added to; or none */
} kd_vocab_chunk;

/* The loss over the vocabulary of a micro-batch; see vocab_loss. */
typedef struct kd_vocab_loss {
    kd_tensor hidden;    /* (N, C) compute, after the final norm                              */
    kd_tensor lm_head;   /* (V, C) compute                                                    */
    kd_tensor labels;    /* (N) i32, KD_LABEL_IGNORED or below V; none: hard is not computed  */
    kd_tensor rows;      /* (M) i32, ascending: the rows that take part; none: all            */
    kd_tensor sums;      /* (KD_VOCAB_SUMS) f64, added to                                     */
    kd_tensor d_hidden;  /* (N, C) f32, written, 0 in rows that take no part; or none         */
    kd_tensor d_lm_head; /* (V, C) f32; or none                                               */
    bool accumulate;     /* d_lm_head is added to, not written                                */
    const kd_vocab_teacher *teachers;
    int n_teachers;
    int64_t n_vocab; /* columns that all know; later ones get no probability in kd    */
    Kd__SoftTarget__Divergence divergence; /* of kd: the job's own word for it             */
    float temperature;  /* T > 0, of kd                                                  */
    float kd_scale;     /* the gradient is that of kd_scale * kd + hard_scale * hard:    */
    float hard_scale;   /* weights, T * T and the division by counts are all in them     */
    int64_t chunk_rows; /* at most so many at once; 0: the back end's choice             */
    void (*chunk)(void *user, const kd_vocab_chunk *chunk); /* or NULL */
    void *user;
} kd_vocab_loss;

enum {
    KD_VOCAB_SUM_KD,      /* sum over rows of the divergence, without any scale         */
    KD_VOCAB_SUM_HARD,    /* sum over labelled rows of the cross-entropy                */
    KD_VOCAB_SUM_CORRECT, /* labelled rows whose largest logit (the first) is the label */
    KD_VOCAB_SUM_ROWS,    /* rows that took part                                        */
    KD_VOCAB_SUM_EMPTY,   /* those whose kd is NaN, since a teacher has no logit above -inf */
    KD_VOCAB_SUMS,
};

typedef struct kd_adamw {
    kd_tensor param;   /* (n) f32 master weights, updated                                     */
    kd_tensor grad;    /* (n) f32                                                             */
    kd_tensor m, v;    /* (n) f32 moments, updated                                            */
    kd_tensor copy;    /* (n) bf16, rewritten from param; or none                             */
    kd_tensor norm_sq; /* (1) f64, sum of squares of the whole gradient                       */
    const kd_tensor *guards; /* [n_guards] f64: nothing is updated unless all in them are finite */
    int n_guards;
    double clip_norm;     /* 0: no clipping; else the gradient's norm is cut to this             */
    double learning_rate; /* of this step                                                        */
    double beta1, beta2, epsilon, weight_decay;
    uint64_t step; /* 1 for the first update: bias correction                                    */
} kd_adamw;

#ifdef __cplusplus
}
#endif

#endif
