#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

static const float eps = 1e-5f;

typedef struct fixture {
    kd_backend *be;
    kd_tensor y, x, sum, delta, w, rstd, dx, dw, dy;
    int64_t n_heads; /* of head_norm */
} fixture;

static fixture make(kd_dtype compute, int n_threads, int64_t rows, int64_t columns)
{
    return (fixture){
        .be = kd_test_backend(compute, n_threads),
        .y = kd_test_zeros(compute, rows, columns),
        .x = kd_test_padded(KD_F32, rows, columns, 3, 1),
        .sum = kd_test_zeros(KD_F32, rows, columns),
        .delta = kd_test_random(KD_F32, rows, columns, 2),
        .w = kd_test_random(KD_F32, 1, columns, 3),
        .rstd = kd_test_zeros(KD_F32, 1, rows),
        .dx = kd_test_zeros(KD_F32, rows, columns),
        .dw = kd_test_zeros(KD_F32, 1, columns),
        .dy = kd_test_random(compute, rows, columns, 4),
    };
}

static fixture make_heads(kd_dtype compute, int n_threads, int64_t rows, int64_t heads, int64_t dim)
{
    return (fixture){
        .be = kd_test_backend(compute, n_threads),
        .y = kd_test_zeros(compute, rows, heads * dim),
        .x = kd_test_padded(compute, rows, heads * dim, 3, 1),
        .sum = kd_test_zeros(KD_F32, 1, 1),
        .delta = kd_test_zeros(KD_F32, 1, 1),
        .w = kd_test_random(KD_F32, 1, dim, 3),
        .rstd = kd_test_zeros(KD_F32, rows, heads),
        .dx = kd_test_padded(compute, rows, heads * dim, 1, 5),
        .dw = kd_test_zeros(KD_F32, 1, dim),
        .dy = kd_test_random(compute, rows, heads * dim, 4),
        .n_heads = heads,
    };
}

static void release(fixture *f)
{
    const kd_tensor all[] = {f->y, f->x, f->sum, f->delta, f->w, f->rstd, f->dx, f->dw, f->dy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(f->be);
}

static double normed(void *user)
{
    fixture *f = user;
    f->be->ops->norm(f->be, f->y, f->sum, f->x, f->delta, f->w, f->rstd, eps);
    return kd_test_project(f->y, f->dy);
}

static double normed_plain(void *user)
{
    fixture *f = user;
    f->be->ops->norm(f->be, f->y, kd_tensor_none(), f->x, kd_tensor_none(), f->w, f->rstd, eps);
    return kd_test_project(f->y, f->dy);
}

static double head_normed(void *user)
{
    fixture *f = user;
    f->be->ops->head_norm(f->be, f->y, f->x, f->w, f->rstd, f->n_heads, eps);
    return kd_test_project(f->y, f->dy);
}

/* Of x + delta, by the formula. */
static double naive(const fixture *f, int64_t row, int64_t column)
{
    const int64_t columns = kd_tensor_columns(f->x);
    double squares = 0.0;
    for (int64_t i = 0; i < columns; i++) {
        const double s = kd_test_get(f->x, row, i) + kd_test_get(f->delta, row, i);
        squares += s * s;
    }
    return kd_test_get(f->w, 0, column) *
           (kd_test_get(f->x, row, column) + kd_test_get(f->delta, row, column)) /
           sqrt(squares / (double)columns + (double)eps);
}

static void expect_formula(kd_dtype compute, int64_t rows, int64_t columns, double limit)
{
    fixture f = make(compute, 1, rows, columns);
    const kd_tensor y = kd_test_zeros(KD_F64, rows, columns);
    for (int64_t i = 0; i < rows * columns; i++) {
        kd_test_set(y, i / columns, i % columns, naive(&f, i / columns, i % columns));
    }
    (void)normed(&f);
    cr_expect_lt(kd_test_nmse(f.y, y), limit, "%lld columns", (long long)columns);
    kd_test_free(y);
    release(&f);
}

Test(ops_norm, follows_the_formula_with_a_delta)
{
    static const int64_t widths[] = {1, 3, 17, 64, 130};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        expect_formula(KD_F32, 5, widths[i], 1e-12);
        expect_formula(KD_BF16, 5, widths[i], 1e-5);
    }
}

/* The sum is of the rounded delta: it is the same as that of the delta widened beforehand. */
Test(ops_norm, a_delta_in_the_compute_dtype_is_added_as_it_is)
{
    enum { ROWS = 17, COLUMNS = 130 };

    fixture narrow = make(KD_BF16, 2, ROWS, COLUMNS), wide = make(KD_BF16, 2, ROWS, COLUMNS);
    const kd_tensor delta = kd_test_random(KD_BF16, ROWS, COLUMNS, 2);

    wide.be->ops->copy(wide.be, wide.delta, delta);
    (void)normed(&wide);
    kd_test_free(narrow.delta);
    narrow.delta = delta;
    (void)normed(&narrow);
    cr_expect_eq(kd_test_nmse(narrow.sum, wide.sum), 0.0);
    cr_expect_eq(kd_test_nmse(narrow.y, wide.y), 0.0);
    cr_expect_gt(kd_test_nmse(narrow.sum, narrow.x), 0.1); /* it was added */
    release(&narrow);
    release(&wide);
}

Test(ops_norm, the_sum_may_replace_x)
{
    fixture f = make(KD_F32, 1, 3, 17), g = make(KD_F32, 1, 3, 17);
    (void)normed(&f);
    g.be->ops->norm(g.be, g.y, g.x, g.x, g.delta, g.w, kd_tensor_none(), eps);
    cr_expect_eq(kd_test_nmse(g.y, f.y), 0.0);
    cr_expect_eq(kd_test_nmse(g.x, f.sum), 0.0);
    release(&f);
    release(&g);
}

static void expect_gradients(int64_t rows, int64_t columns)
{
    fixture f = make(KD_F32, 1, rows, columns);
    (void)normed_plain(&f);
    f.be->ops->norm_backward(f.be, f.dx, f.dw, f.dy, f.x, f.w, f.rstd, true);
    cr_expect_lt(kd_test_slope_error(normed_plain, &f, f.x, f.dx, 1e-2), 2e-3);
    cr_expect_lt(kd_test_slope_error(normed_plain, &f, f.w, f.dw, 1e-2), 2e-3);
    release(&f);
}

Test(ops_norm, gradients_match_central_differences)
{
    expect_gradients(1, 3);
    expect_gradients(3, 17);
    expect_gradients(17, 20);
}

Test(ops_norm, gradients_are_added_to_what_is_there)
{
    fixture f = make(KD_F32, 1, 3, 5);
    (void)normed_plain(&f);
    f.be->ops->norm_backward(f.be, f.dx, f.dw, f.dy, f.x, f.w, f.rstd, true);
    const double dx = kd_test_get(f.dx, 2, 4), dw = kd_test_get(f.dw, 0, 4);
    f.be->ops->norm_backward(f.be, f.dx, f.dw, f.dy, f.x, f.w, f.rstd, true);
    cr_expect_float_eq(kd_test_get(f.dx, 2, 4), 2.0 * dx, 1e-6);
    cr_expect_float_eq(kd_test_get(f.dw, 0, 4), 2.0 * dw, 1e-6);
    release(&f);
}

Test(ops_norm, two_threads_agree_with_one)
{
    fixture one = make(KD_BF16, 1, 130, 600), two = make(KD_BF16, 2, 130, 600);
    (void)normed_plain(&one);
    (void)normed_plain(&two);
    one.be->ops->norm_backward(one.be, one.dx, one.dw, one.dy, one.x, one.w, one.rstd, true);
    two.be->ops->norm_backward(two.be, two.dx, two.dw, two.dy, two.x, two.w, two.rstd, true);
    cr_expect_eq(kd_test_nmse(two.y, one.y), 0.0);
    cr_expect_eq(kd_test_nmse(two.dx, one.dx), 0.0);
    cr_expect_lt(kd_test_nmse(two.dw, one.dw), 1e-11);
    release(&one);
    release(&two);
}

static void expect_head_gradients(int64_t rows, int64_t heads, int64_t dim)
{
    fixture f = make_heads(KD_F32, 1, rows, heads, dim);
    (void)head_normed(&f);
    f.be->ops->head_norm_backward(f.be, f.dx, f.dw, f.dy, f.x, f.w, f.rstd, heads, true);
    cr_expect_lt(kd_test_slope_error(head_normed, &f, f.x, f.dx, 1e-2), 3e-3);
    cr_expect_lt(kd_test_slope_error(head_normed, &f, f.w, f.dw, 1e-2), 3e-3);
    release(&f);
}

Test(ops_norm, a_weight_without_a_gradient_changes_no_gradient_of_x)
{
    fixture f = make(KD_F32, 1, 3, 17), g = make(KD_F32, 1, 3, 17);
    fixture heads = make_heads(KD_F32, 1, 3, 4, 10), frozen = make_heads(KD_F32, 1, 3, 4, 10);

    (void)normed_plain(&f);
    (void)normed_plain(&g);
    f.be->ops->norm_backward(f.be, f.dx, f.dw, f.dy, f.x, f.w, f.rstd, true);
    g.be->ops->norm_backward(g.be, g.dx, kd_tensor_none(), g.dy, g.x, g.w, g.rstd, true);
    cr_expect_eq(kd_test_nmse(g.dx, f.dx), 0.0);
    (void)head_normed(&heads);
    (void)head_normed(&frozen);
    f.be->ops->head_norm_backward(f.be, heads.dx, heads.dw, heads.dy, heads.x, heads.w, heads.rstd,
                                  4, true);
    g.be->ops->head_norm_backward(g.be, frozen.dx, kd_tensor_none(), frozen.dy, frozen.x, frozen.w,
                                  frozen.rstd, 4, true);
    cr_expect_eq(kd_test_nmse(frozen.dx, heads.dx), 0.0);
    release(&frozen);
    release(&heads);
    release(&g);
    release(&f);
}

Test(ops_norm, head_gradients_match_central_differences)
{
    expect_head_gradients(1, 1, 6);
    expect_head_gradients(3, 4, 10);
    expect_head_gradients(17, 1, 12); /* the whole row as one head */
}

Test(ops_norm, a_head_is_normalised_as_a_row_of_its_own)
{
    fixture heads = make_heads(KD_F32, 1, 6, 3, 8);
    (void)head_normed(&heads);
    for (int64_t h = 0; h < 3; h++) {
        const kd_tensor y = kd_test_zeros(KD_F32, 6, 8);
        heads.be->ops->norm(heads.be, y, kd_tensor_none(),
                            kd_tensor_slice_columns(heads.x, 8 * h, 8), kd_tensor_none(), heads.w,
                            kd_tensor_none(), eps);
        cr_expect_lt(kd_test_nmse(kd_tensor_slice_columns(heads.y, 8 * h, 8), y), 1e-12);
        kd_test_free(y);
    }
    release(&heads);
}

Test(ops_norm, bf16_head_gradients_are_near_f32)
{
    fixture exact = make_heads(KD_F32, 1, 130, 4, 64), rounded = make_heads(KD_BF16, 2, 130, 4, 64);
    (void)head_normed(&exact);
    (void)head_normed(&rounded);
    exact.be->ops->head_norm_backward(exact.be, exact.dx, exact.dw, exact.dy, exact.x, exact.w,
                                      exact.rstd, 4, true);
    rounded.be->ops->head_norm_backward(rounded.be, rounded.dx, rounded.dw, rounded.dy, rounded.x,
                                        rounded.w, rounded.rstd, 4, true);
    cr_expect_lt(kd_test_nmse(rounded.y, exact.y), 1e-4);
    cr_expect_lt(kd_test_nmse(rounded.dx, exact.dx), 1e-4);
    cr_expect_lt(kd_test_nmse(rounded.dw, exact.dw), 1e-4);
    release(&exact);
    release(&rounded);
}
