/*
 * matmul.h - dense products by cuBLASLt, with an algorithm kept for each shape.
 *
 * The library's heuristic chooses once per shape, strides, dtypes and alignment; nothing is timed, so that
 * the choice is the same in each run on one kind of GPU. Its workspace is taken once and never grows.
 */
#ifndef KD_TENSOR_CUDA_MATMUL_H
#define KD_TENSOR_CUDA_MATMUL_H

#include <stddef.h>

#include "base/status.h"

struct kd_cuda_products;

KD_MUST_USE kd_status kd_cuda_products_create(kd_cuda_products **products_out);
void kd_cuda_products_destroy(kd_cuda_products *products); /* accepts NULL */
size_t kd_cuda_products_bytes(const kd_cuda_products *products);

#endif
