/*
 * attention_cudnn.h - attention by cuDNN's engines, where there is that library, and one of its engines takes
 * the shape: bf16, heads of a multiple of 8 columns up to 128, rows at multiples of 16 bytes.
 *
 * A plan is made when a shape comes for the first time, which takes a second or two, and is kept for as long as
 * the back end lives: a captured graph of launches may hold its code. Engines are the heuristic's choice, never
 * that of a clock. A shape that no engine takes, and any that comes once the table is full, is left to the
 * plain kernels.
 *
 * Rows of padding may hold anything and reach no sum: where there are segments the engines are given copies
 * with zeros in them, for in a product even a weight of 0 lets a NaN through.
 *
 * Backward, engines keep the gradient of all scores that they are given: 2 * B H T^2 bytes. What would keep more
 * than KD_ATTENTION_KEPT_MAX is made in parts, one after another in the same workspace: some sequences, or one
 * sequence and the heads that share keys. Where one of those is still too large (8 heads at T = 16,384), the
 * plain kernels, which keep nothing, run in its place.
 */
#ifndef KD_TENSOR_CUDA_ATTENTION_CUDNN_H
#define KD_TENSOR_CUDA_ATTENTION_CUDNN_H

#include "tensor/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KD_ATTENTION_PLANS_MAX 64
#define KD_ATTENTION_KEPT_MAX  (INT64_C(1) << 30)

typedef struct kd_cuda_attention_plans kd_cuda_attention_plans;

/* True: it is queued, or the back end has a fault. False: it is for the plain kernels. */
bool kd_cuda_attention_by_cudnn(kd_backend *be, const kd_attention *a);
bool kd_cuda_attention_backward_by_cudnn(kd_backend *be,
                                         const kd_attention *a,
                                         kd_tensor dq,
                                         kd_tensor dk,
                                         kd_tensor dv,
                                         kd_tensor dout);

/* For tests: another limit than KD_ATTENTION_KEPT_MAX. */
void kd_cuda_attention_keep_at_most(kd_backend *be, int64_t n_bytes);

void kd_cuda_attention_plans_destroy(kd_cuda_attention_plans *plans); /* accepts NULL */

#ifdef __cplusplus
}
#endif

#endif
