/*
 * product.h - what a matrix product is, for the back ends' own use.
 */
#ifndef KD_TENSOR_PRODUCT_H
#define KD_TENSOR_PRODUCT_H

#include <stdbool.h>

#include "tensor/tensor.h"

/*
 * c (M, N) = op(a) op(b), or c += with accumulate. op(x) is x, or its transpose if trans_x is set:
 * a is stored (M, K) or (K, M), b is stored (K, N) or (N, K). a and b have one dtype, f32 or bf16;
 * c is f32 or that. Rows may be strided. A product without elements does nothing.
 */
typedef struct kd_product {
    kd_tensor c, a, b;
    bool trans_a, trans_b;
    bool accumulate;
} kd_product;

#endif
