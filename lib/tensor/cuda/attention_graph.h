/*
 * attention_graph.h - attention as graphs of cuDNN's operations: softmax(scale q k^T) v, and its gradient.
 *
 * The composition is that which the library's engines know as attention (their scores never come to memory);
 * an engine takes it as a whole or refuses it. Row i of a sequence sees row j where j <= i and, in a graph
 * with bounds, j >= first[i]: so segments, whose rows begin with their own first one, and windows are one
 * thing, and no mask of T x T is made. Each row has to see itself.
 *
 * Forward, 14 operations, 16 with bounds:
 *   s = scale q k^T;  p = exp(s - max s) / sum;  lse = max s + log sum;  out = p v
 *
 * Backward, 23 operations, 25 with bounds, two fewer where each head has keys of its own:
 *   p = exp(s - lse);  dv = p^T dout;  delta = rowsum(dout * out);  ds = scale p (dout v^T - delta)
 *   dk = ds^T q;  dq = ds k
 * dk and dv of each head are rounded to bf16 and then summed over the heads that share keys. dq comes from one
 * product with ds, which the engine keeps in its workspace. Engines know another form, in which blocks of keys
 * add to dq in f32: it needs less memory, and adds in the order in which they come.
 */
#ifndef KD_TENSOR_CUDA_ATTENTION_GRAPH_H
#define KD_TENSOR_CUDA_ATTENTION_GRAPH_H

#include "tensor/cuda/cudnn_graph.h"

/* The numbers of arguments. */
enum {
    KD_ATTENTION_Q,     /* (B T, H D) bf16, rows apart by a stride; so are the others */
    KD_ATTENTION_K,     /* (B T, G D) bf16              */
    KD_ATTENTION_V,     /* (B T, G D) bf16              */
    KD_ATTENTION_OUT,   /* (B T, H D) bf16              */
    KD_ATTENTION_LSE,   /* (B H, T) f32                 */
    KD_ATTENTION_FIRST, /* (B, T) i32, with bounds      */
    KD_ATTENTION_SCALE, /* by value: 1 / sqrt(D)        */
    KD_ATTENTION_NEVER, /* by value: -inf               */
    KD_ATTENTION_DOUT,  /* backward: (B T, H D) bf16         */
    KD_ATTENTION_DELTA, /* backward: (B H, T) f32, scratch   */
    KD_ATTENTION_ONE,   /* backward, by value: 1             */
    KD_ATTENTION_DQ,    /* backward: as q, k, v              */
    KD_ATTENTION_DK,
    KD_ATTENTION_DV,
    KD_ATTENTION_TENSORS,
};

static_assert(KD_ATTENTION_TENSORS <= KD_CUDNN_ARGUMENTS);

/* All of one type, so that there is no padding and shapes compare as bytes. */
struct kd_attention_graph_shape {
    int64_t n_batch, n_tokens, n_heads, n_kv_heads, head_dim;
    int64_t is_backward, is_bounded;
    int64_t strides[KD_ATTENTION_TENSORS]; /* from row to row, of those in bf16; else 0 */
};

/* Begins a graph and fills it; see cudnn_graph.h for what comes next. */
kd_cudnn_graph kd_attention_graph(const kd_cudnn *lib, const kd_attention_graph_shape &shape);

/* What the engine keeps of the scores in a pass backward: ds, in bf16 and in whole tiles. */
int64_t kd_attention_graph_kept_bytes(const kd_attention_graph_shape &shape);

#endif
