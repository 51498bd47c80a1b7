/*
 * matmul.h - dense products by cuBLASLt, with an algorithm kept for each shape.
 *
 * The library's heuristic chooses once per shape, strides, dtypes and alignment; nothing is timed, so that
 * the choice is the same in each run on one kind of GPU. Its workspace is taken once and never grows. A
 * product for which it has no algorithm (rows at addresses that it does not take) is made by a plain kernel
 * of our own.
 */
#ifndef KD_TENSOR_CUDA_MATMUL_H
#define KD_TENSOR_CUDA_MATMUL_H

#include "tensor/cuda/cuda.h"

/* Of the current device, of that name. */
KD_MUST_USE kd_status kd_cuda_products_create(const char *device, kd_cuda_products **products_out);
void kd_cuda_products_destroy(kd_cuda_products *products); /* accepts NULL */
size_t kd_cuda_products_bytes(const kd_cuda_products *products);

/* A gradient may come in f32 from the residual stream; products take compute operands, so it is cast into
 * scratch, which the caller rewinds. */
kd_tensor kd_cuda_as_compute(kd_backend *be, kd_tensor t);

#endif
