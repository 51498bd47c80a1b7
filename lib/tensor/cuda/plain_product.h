/*
 * plain_product.h - a dense product by a kernel of our own, for what the library does not take: any shape,
 * strides and alignment. Its sums have one order, whatever the schedule.
 */
#ifndef KD_TENSOR_CUDA_PLAIN_PRODUCT_H
#define KD_TENSOR_CUDA_PLAIN_PRODUCT_H

#include "tensor/ops.h"
#include "tensor/product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* On the stream. One without elements does nothing; K of 0 gives zeros, or nothing where it accumulates. */
void kd_cuda_plain_product(kd_backend *be, const kd_product *product);

#ifdef __cplusplus
}
#endif

#endif
