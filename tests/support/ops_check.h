/*
 * ops_check.h - what the tests of operations have in common: tensors of random numbers with
 * guard bytes behind them, and comparisons in double precision.
 *
 * Functions that read or write elements wait first for all back ends under test. Everything aborts the test
 * with a message when memory is missing.
 */
#ifndef KD_TESTS_SUPPORT_OPS_CHECK_H
#define KD_TESTS_SUPPORT_OPS_CHECK_H

#include "tests/support/back_end.h"

/*
 * Tensors in memory that the host and the device under test both use, with 64 guard bytes behind the last
 * element; kd_test_free checks the guard and frees. Random values are normal, the same for the same seed, rounded to the dtype. A padded
 * one has rows `padding` elements longer than its columns, which are guarded as well.
 */
kd_tensor kd_test_zeros(kd_dtype dtype, int64_t rows, int64_t columns);
kd_tensor kd_test_random(kd_dtype dtype, int64_t rows, int64_t columns, uint64_t seed);
kd_tensor
kd_test_padded(kd_dtype dtype, int64_t rows, int64_t columns, int64_t padding, uint64_t seed);
kd_tensor kd_test_i32(const int32_t *values, int64_t n); /* of one dimension */
void kd_test_free(kd_tensor t);

/* Whether the guard bytes are as they were. */
bool kd_test_guarded(kd_tensor t);

/* One element of a tensor of any float dtype, by row and column. */
double kd_test_get(kd_tensor t, int64_t row, int64_t column);
void kd_test_set(kd_tensor t, int64_t row, int64_t column, double value);

/* The elements of an i32 tensor, packed. */
int32_t *kd_test_ints(kd_tensor t);

/* sum (a - b)^2 / sum b^2, of tensors of one shape and any dtypes; 0 when both are all zero. */
double kd_test_nmse(kd_tensor a, kd_tensor b);

/* c (of any float dtype) += op(a) op(b), summed in doubles; op transposes where asked for. */
void kd_test_multiply(kd_tensor c, kd_tensor a, bool trans_a, kd_tensor b, bool trans_b);

/* A sum of products with fixed random factors: a scalar function of a tensor, to take slopes of. */
double kd_test_project(kd_tensor t, kd_tensor factors);

/* Scalar of the whole computation under test. */
typedef double kd_test_function(void *user);

/*
 * Largest difference between `gradient` and central differences of f by the elements of x,
 * relative to the largest slope.
 */
double
kd_test_slope_error(kd_test_function *f, void *user, kd_tensor x, kd_tensor gradient, double h);

#endif
