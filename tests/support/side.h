/*
 * side.h - the same operations on two back ends, the one under test and the CPU's, and what they wrote
 * compared: integers are equal, numbers differ by a normalised mean square error of at most 1e-10 in f32 and
 * 1e-5 in bf16.
 *
 * A test's function makes its tensors and calls operations; it is run once on each side. It makes the same
 * tensors in the same order on both, so they start with the same numbers: outputs too, random ones, so that
 * what is left out or written beside shows.
 *
 * What fails here fails the test that called. A side owns what is made on it.
 */
#ifndef KD_TESTS_SUPPORT_SIDE_H
#define KD_TESTS_SUPPORT_SIDE_H

#include "tensor/ops.h"

enum { SIDE_TENSORS_MAX = 24 };

/* n rows; c and o columns; elements before and behind each row of activations: nobody changes them. */
typedef struct side_shape {
    int64_t n, c, o, experts, k, heads, dim, lead, padding;
} side_shape;

typedef struct side {
    kd_backend *be;
    kd_dtype compute;
    side_shape s;
    kd_tensor made[SIDE_TENSORS_MAX];
    bool is_output[SIDE_TENSORS_MAX]; /* compared */
    int n_made;
} side;

typedef void side_fn(side *d);

/* Activations (rows, columns), with what the shape has around rows. */
kd_tensor side_in(side *d, kd_dtype dtype, int64_t rows, int64_t columns);
kd_tensor side_out(side *d, kd_dtype dtype, int64_t rows, int64_t columns);

/* Parameters, and their gradients in f32: packed. */
kd_tensor side_weight(side *d, kd_dtype dtype, int64_t rows, int64_t columns);
kd_tensor side_gradient(side *d, int64_t rows, int64_t columns);

/* Of one dimension; numbers that go in are f32. */
kd_tensor side_in_1d(side *d, int64_t n);
kd_tensor side_out_1d(side *d, kd_dtype dtype, int64_t n);

/* Integers: zeros, and n of one dimension below `end`, some of them more than once. */
kd_tensor side_ints(side *d, int64_t rows, int64_t columns, bool is_output);
kd_tensor side_ids(side *d, int64_t n, int64_t end);

/* All elements as one dimension of a packed tensor. */
kd_tensor side_as_1d(kd_tensor t);

/* A side on the CPU; the back end and all tensors go with side_finish(). */
side side_on_cpu(kd_dtype compute, side_shape s);
void side_finish(side *d);

/* Runs it on both sides with each shape. A CPU under test has more threads than the other. */
void side_compare(side_fn *run, kd_dtype compute, const side_shape *shapes, int n_shapes);

#endif
