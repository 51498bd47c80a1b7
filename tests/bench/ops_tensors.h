/*
 * ops_tensors.h - what bench_ops works on: tensors of the reference job's shapes, random and all at once.
 */
#ifndef KD_BENCH_OPS_TENSORS_H
#define KD_BENCH_OPS_TENSORS_H

#include "tensor/ops.h"

enum { N = 1024, C = 512, F = 1024, E = 8, K = 2, V = 4096, T = 256, H = 8, G = 4, D = 64 };

/* CHUNK rows of logits at a time in the products by themselves; vocab_loss chooses for itself. */
enum { CHUNK = 256, ROUTED = N * K, QKV = (H + 2 * G) * D, PARAMS = 1 << 22 };

typedef struct bench {
    kd_backend *be;                                         /* set before bench_make() */
    void *slab;                                             /* of all that follow */
    kd_tensor x, y, delta, w, rstd, hidden, d_hidden;       /* (N, C) and vectors */
    kd_tensor qkv, dqkv, heads, d_heads, lse, table, w_qkv; /* attention          */
    kd_tensor rows, d_rows, gate_up, d_gate_up, h, d_h;     /* (R, ...)           */
    kd_tensor w_gate_up, w_down, dw_gate_up;                /* (E, ...)           */
    kd_tensor router_logits, d_router, d_weights, router_sums;
    kd_tensor logits, d_logits, teacher, labels, sums, head,
        d_head; /* (CHUNK, V), (N, V), (V, C) */
    int64_t chunk_rows;
    kd_tensor param, grad, m, v, copy, norm_sq;
    kd_route route;
    kd_attention attention;
} bench;

/* KD_ERR_NOMEM. The back end stays the caller's. */
KD_MUST_USE kd_status bench_make(bench *b);
void bench_release(bench *b);

#endif
