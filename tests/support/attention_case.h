/*
 * attention_case.h - one call of attention with made-up tensors, forward and backward.
 *
 * What fails here fails the test that called.
 */
#ifndef KD_TESTS_ATTENTION_CASE_H
#define KD_TESTS_ATTENTION_CASE_H

#include "tensor/ops.h"

/* One call with its tensors: q, k and v are columns of one fused matrix, as in the decoder. */
typedef struct attention_case {
    kd_backend *be;
    kd_tensor qkv, out, lse, dqkv, dout, factors;
    kd_attention a; /* its segments are a test's to set */
} attention_case;

typedef struct attention_shape {
    int64_t b, t, h, g, d;
} attention_shape;

attention_case attention_case_make(kd_dtype compute, int n_threads, attention_shape s);
/* So many elements behind each row of the fused matrices; above, an odd number. */
attention_case
attention_case_make_padded(kd_dtype compute, int n_threads, attention_shape s, int64_t padding);
void attention_case_release(attention_case *f); /* the segments too */

/* Both wait. */
void attention_case_forward(attention_case *f);
void attention_case_backward(attention_case *f);

#endif
