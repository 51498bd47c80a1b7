/*
 * experts_case.h - products of experts' segments, and what they must give, by doubles.
 */
#ifndef KD_TESTS_SUPPORT_EXPERTS_CASE_H
#define KD_TESTS_SUPPORT_EXPERTS_CASE_H

#include "tests/support/ops_check.h"

enum { EXPERTS_CASE_MAX = 48 };

typedef struct experts_shape {
    kd_dtype compute, dtype_y; /* of y, dy and dx */
    int64_t n_experts, width_y, width_x;
    int64_t padding; /* of every row but the gradient's of the weights */
    int32_t offsets[EXPERTS_CASE_MAX + 1];
} experts_shape;

/* Tensors of one case; those whose name ends in _ref are f64. Behind the rows in use are some that are NaN in x and
 * dy, which must not be read, and 7 in y and dx, where nothing must be written. */
typedef struct experts_case {
    experts_shape s;
    kd_tensor x, w, dy, y, dx, dw, y_ref, dx_ref, dw_ref; /* of two dimensions */
    kd_route route;
} experts_case;

/* The references are zeros. */
experts_case experts_case_make(const experts_shape *s);
void experts_case_release(experts_case *c);

/* A matrix of all experts' rows as (E, rows, columns). */
kd_tensor experts_case_by_expert(const experts_case *c, kd_tensor matrix);

/* All three operations, that of the weights twice: written over what is there, then added to. Waits. */
void experts_case_run(experts_case *c, kd_backend *be);

/* The references of these experts only, with dw counted so many times. */
void experts_case_refer(experts_case *c, int64_t first, int64_t n, int times);

/* Of the rows of these experts. */
void experts_case_expect(const experts_case *c, int64_t first, int64_t n);

/* Makes a case, runs it and expects it, all of it, also that spare rows are as they were. */
void experts_case_check(kd_backend *be, const experts_shape *s);

#endif
