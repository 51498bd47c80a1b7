#include "tests/support/experts_case.h"

#include <criterion/criterion.h>
#include <math.h>

enum { SPARE_ROWS = 32 };

kd_tensor experts_case_by_expert(const experts_case *c, kd_tensor matrix)
{
    const int64_t n = c->s.n_experts;
    kd_tensor t = kd_tensor_3d(matrix.data, matrix.dtype, n, matrix.dims[0] / n, matrix.dims[1]);
    t.row_stride = matrix.row_stride;
    return t;
}

static void set_spare_rows(kd_tensor t, int64_t first, double value)
{
    for (int64_t row = first; row < kd_tensor_rows(t); row++) {
        for (int64_t column = 0; column < kd_tensor_columns(t); column++) {
            kd_test_set(t, row, column, value);
        }
    }
}

experts_case experts_case_make(const experts_shape *s)
{
    const int64_t used = s->offsets[s->n_experts], rows = used + SPARE_ROWS;
    const int64_t o = s->width_y, k = s->width_x, all = s->n_experts * o;
    const experts_case c = {
        .s = *s,
        .x = kd_test_padded(s->compute, rows, k, s->padding, 1),
        .w = kd_test_padded(s->compute, all, k, s->padding, 2),
        .dy = kd_test_padded(s->dtype_y, rows, o, s->padding, 3),
        .y = kd_test_padded(s->dtype_y, rows, o, s->padding, 4),
        .dx = kd_test_padded(s->dtype_y, rows, k, s->padding, 5),
        .dw = kd_test_random(KD_F32, all, k, 6),
        .y_ref = kd_test_zeros(KD_F64, used, o),
        .dx_ref = kd_test_zeros(KD_F64, used, k),
        .dw_ref = kd_test_zeros(KD_F64, all, k),
        .route = {.offset = kd_test_i32(s->offsets, s->n_experts + 1)},
    };
    set_spare_rows(c.x, used, NAN);
    set_spare_rows(c.dy, used, NAN);
    set_spare_rows(c.y, used, 7.0);
    set_spare_rows(c.dx, used, 7.0);
    return c;
}

void experts_case_release(experts_case *c)
{
    const kd_tensor all[] = {c->x,  c->w,     c->dy,     c->y,      c->dx,
                             c->dw, c->y_ref, c->dx_ref, c->dw_ref, c->route.offset};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
}

void experts_case_run(experts_case *c, kd_backend *be)
{
    const kd_tensor w = experts_case_by_expert(c, c->w), dw = experts_case_by_expert(c, c->dw);
    be->ops->experts(be, c->y, c->x, w, &c->route);
    be->ops->experts_backward_x(be, c->dx, c->dy, w, &c->route);
    for (int i = 0; i < 2; i++) {
        be->ops->experts_backward_w(be, dw, c->dy, c->x, &c->route, i > 0);
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
}

/* Rows of experts in a tensor that has one for each routed token, or width_y for each expert. */
static kd_tensor routed(const experts_case *c, kd_tensor t, int64_t first, int64_t n)
{
    const int32_t *at = c->s.offsets;
    return kd_tensor_slice_rows(t, at[first], at[first + n] - at[first]);
}

static kd_tensor weights(const experts_case *c, kd_tensor t, int64_t first, int64_t n)
{
    return kd_tensor_slice_rows(t, first * c->s.width_y, n * c->s.width_y);
}

void experts_case_refer(experts_case *c, int64_t first, int64_t n, int times)
{
    for (int64_t e = first; e < first + n; e++) {
        const kd_tensor w = weights(c, c->w, e, 1), dw = weights(c, c->dw_ref, e, 1);
        const kd_tensor x = routed(c, c->x, e, 1), dy = routed(c, c->dy, e, 1);
        kd_test_multiply(routed(c, c->y_ref, e, 1), x, false, w, true);
        kd_test_multiply(routed(c, c->dx_ref, e, 1), dy, false, w, false);
        for (int i = 0; i < times; i++) {
            kd_test_multiply(dw, dy, true, x, false);
        }
    }
}

static void expect_near(kd_tensor found, kd_tensor wanted, double limit, const char *what)
{
    cr_expect_lt(kd_test_nmse(found, wanted), limit, "%s: %lld rows of %lld", what,
                 (long long)kd_tensor_rows(found), (long long)kd_tensor_columns(found));
}

void experts_case_expect(const experts_case *c, int64_t first, int64_t n)
{
    /* Where nothing but sums is rounded, these are f32; else bf16. */
    const bool exact = c->s.compute == KD_F32, exact_dw = c->s.dtype_y == c->s.compute;
    const double limit = exact ? 1e-10 : 1e-5;
    expect_near(routed(c, c->y, first, n), routed(c, c->y_ref, first, n), limit, "y");
    expect_near(routed(c, c->dx, first, n), routed(c, c->dx_ref, first, n), limit, "dx");
    expect_near(weights(c, c->dw, first, n), weights(c, c->dw_ref, first, n),
                exact_dw ? 1e-10 : limit, "dw");
}

static void expect_spare_rows(kd_tensor t, int64_t first)
{
    for (int64_t row = first; row < kd_tensor_rows(t); row++) {
        for (int64_t column = 0; column < kd_tensor_columns(t); column++) {
            cr_assert_eq(kd_test_get(t, row, column), 7.0, "row %lld past the last segment",
                         (long long)row);
        }
    }
}

void experts_case_check(kd_backend *be, const experts_shape *s)
{
    experts_case c = experts_case_make(s);
    experts_case_run(&c, be);
    experts_case_refer(&c, 0, s->n_experts, 2);
    experts_case_expect(&c, 0, s->n_experts);
    expect_spare_rows(c.y, s->offsets[s->n_experts]);
    expect_spare_rows(c.dx, s->offsets[s->n_experts]);
    experts_case_release(&c);
}
