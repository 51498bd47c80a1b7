/*
 * product_check.h - a linear layer against three loops, for every back end's tests.
 */
#ifndef KD_TESTS_SUPPORT_PRODUCT_CHECK_H
#define KD_TESTS_SUPPORT_PRODUCT_CHECK_H

#include "tensor/ops.h"

/* y (N, O) = x (N, K) w^T and both gradients, with rows of every matrix strided. What fails here fails the test
 * that called. */
void kd_test_linear(kd_dtype compute, kd_dtype dtype_y, int64_t n, int64_t o, int64_t k);

#endif
