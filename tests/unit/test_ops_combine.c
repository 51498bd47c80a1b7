#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

/* 3 tokens, 2 experts each of 3; rows of segments as `route` would place them. */
enum { N = 3, K = 2, R = 96 };

static const int32_t position[N * K] = {0, 32, 1, 64, 33, 65};
static int32_t token[R];

static kd_route make_route(kd_tensor weights)
{
    const kd_tensor places = kd_test_i32(position, (int64_t)N * K);
    for (int row = 0; row < R; row++) {
        token[row] = -1;
    }
    for (int i = 0; i < N * K; i++) {
        token[position[i]] = i / K;
    }
    return (kd_route){.weights = weights,
                      .position = kd_tensor_2d(places.data, KD_I32, N, K),
                      .token = kd_test_i32(token, R)};
}

typedef struct fixture {
    kd_backend *be;
    kd_route route;
    kd_tensor weights, x, y, dx, dy, d_weights; /* x by row of a segment, y by token */
} fixture;

static fixture make(kd_dtype compute, int n_threads, int64_t columns)
{
    fixture f = {
        .be = kd_test_backend(compute, n_threads),
        .weights = kd_test_random(KD_F32, N, K, 1),
        .x = kd_test_random(compute, R, columns, 2),
        .y = kd_test_zeros(KD_F32, N, columns),
        .dx = kd_test_random(compute, R, columns, 3),
        .dy = kd_test_random(KD_F32, N, columns, 4),
        .d_weights = kd_test_zeros(KD_F32, N, K),
    };
    f.route = make_route(f.weights);
    return f;
}

static void release(fixture *f)
{
    const kd_tensor all[] = {f->weights,        f->x,          f->y, f->dx, f->dy, f->d_weights,
                             f->route.position, f->route.token};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(f->be);
}

static double combined(void *user)
{
    fixture *f = user;
    f->be->ops->combine(f->be, f->y, f->x, &f->route);
    return kd_test_project(f->y, f->dy);
}

Test(ops_combine, gradients_match_central_differences)
{
    static const int64_t widths[] = {1, 3, 17, 40};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        fixture f = make(KD_F32, 1, widths[i]);
        f.be->ops->combine_backward(f.be, f.dx, f.d_weights, f.dy, f.x, &f.route);
        cr_expect_lt(kd_test_slope_error(combined, &f, f.x, f.dx, 1e-1), 1e-4);
        cr_expect_lt(kd_test_slope_error(combined, &f, f.weights, f.d_weights, 1e-1), 1e-4);
        release(&f);
    }
}

Test(ops_combine, a_token_is_the_weighted_sum_of_its_rows)
{
    fixture f = make(KD_BF16, 2, 600); /* wider than a block of columns */
    (void)combined(&f);
    for (int64_t n = 0; n < N; n++) {
        double sum = 0.0;
        for (int64_t j = 0; j < K; j++) {
            sum += kd_test_get(f.weights, n, j) * kd_test_get(f.x, position[n * K + j], 599);
        }
        cr_expect_float_eq(kd_test_get(f.y, n, 599), sum, 1e-5);
    }
    release(&f);
}

Test(ops_combine, dispatch_copies_tokens_and_its_gradient_sums_them)
{
    for (int dtype = KD_F32; dtype <= KD_BF16; dtype++) {
        fixture f = make((kd_dtype)dtype, 2, 17);
        const kd_tensor y = kd_test_random((kd_dtype)dtype, N, 17, 5);
        const kd_tensor dy = kd_test_zeros((kd_dtype)dtype, N, 17);
        f.be->ops->dispatch(f.be, f.x, y, &f.route);
        f.be->ops->dispatch_backward(f.be, dy, f.x, &f.route);
        for (int64_t row = 0; row < R; row++) {
            cr_expect_eq(kd_test_get(f.x, row, 16),
                         token[row] < 0 ? 0.0 : kd_test_get(y, token[row], 16));
        }
        for (int64_t n = 0; n < N; n++) {
            cr_expect_eq(kd_test_get(dy, n, 16), K * kd_test_get(y, n, 16));
        }
        kd_test_free(y);
        kd_test_free(dy);
        release(&f);
    }
}

Test(ops_combine, padding_rows_get_no_gradient)
{
    fixture f = make(KD_BF16, 1, 5);
    f.be->ops->combine_backward(f.be, f.dx, f.d_weights, f.dy, f.x, &f.route);
    for (int64_t row = 0; row < R; row++) {
        cr_expect(token[row] >= 0 || kd_test_get(f.dx, row, 4) == 0.0);
    }
    release(&f);
}

/* Expects that `narrow` (bf16) holds the values of `wide` (f32), rounded once. */
static void expect_rounded(kd_backend *be, kd_tensor narrow, kd_tensor wide)
{
    const int64_t rows = kd_tensor_rows(wide), columns = kd_tensor_columns(wide);
    const kd_tensor rounded = kd_test_zeros(KD_BF16, rows, columns);

    be->ops->copy(be, rounded, wide);
    cr_expect_eq(kd_test_nmse(narrow, rounded), 0.0);
    kd_test_free(rounded);
}

Test(ops_combine, a_sum_in_the_compute_dtype_is_rounded_once)
{
    fixture f = make(KD_BF16, 2, 600);
    const kd_tensor y = kd_test_zeros(KD_BF16, N, 600);

    f.be->ops->combine(f.be, f.y, f.x, &f.route);
    f.be->ops->combine(f.be, y, f.x, &f.route);
    expect_rounded(f.be, y, f.y);
    kd_test_free(y);
    release(&f);
}

typedef struct gated {
    kd_backend *be;
    kd_tensor y, x, gate, dx, d_gate, dy;
} gated;

static double gated_sum(void *user)
{
    gated *f = user;
    f->be->ops->zero(f->be, f->y);
    f->be->ops->gated_add(f->be, f->y, f->x, f->gate);
    return kd_test_project(f->y, f->dy);
}

static gated make_gated(kd_dtype compute, int64_t rows, int64_t columns)
{
    return (gated){kd_test_backend(compute, 2),
                   kd_test_zeros(KD_F32, rows, columns),
                   kd_test_random(compute, rows, columns, 1),
                   kd_test_random(KD_F32, rows, 1, 2),
                   kd_test_zeros(compute, rows, columns),
                   kd_test_zeros(KD_F32, rows, 1),
                   kd_test_random(KD_F32, rows, columns, 3)};
}

static void free_gated(gated *f)
{
    const kd_tensor all[] = {f->y, f->x, f->gate, f->dx, f->d_gate, f->dy};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(f->be);
}

Test(ops_combine, the_shared_expert_is_gated_and_its_gradients_match_central_differences)
{
    gated f = make_gated(KD_F32, 3, 17);
    (void)gated_sum(&f);
    const double share = 1.0 / (1.0 + exp(-kd_test_get(f.gate, 2, 0)));
    cr_expect_float_eq(kd_test_get(f.y, 2, 16), share * kd_test_get(f.x, 2, 16), 1e-6);
    f.be->ops->gated_add_backward(f.be, f.dx, f.d_gate, f.dy, f.x, f.gate);
    cr_expect_lt(kd_test_slope_error(gated_sum, &f, f.x, f.dx, 1e-1), 1e-4);
    cr_expect_lt(kd_test_slope_error(gated_sum, &f, f.gate, f.d_gate, 1e-2), 1e-3);
    free_gated(&f);
}

Test(ops_combine, a_gated_sum_in_the_compute_dtype_is_rounded_once)
{
    gated f = make_gated(KD_BF16, 17, 130);
    const kd_tensor y = kd_test_random(KD_BF16, 17, 130, 4);

    f.be->ops->copy(f.be, f.y, y);
    f.be->ops->gated_add(f.be, f.y, f.x, f.gate);
    f.be->ops->gated_add(f.be, y, f.x, f.gate);
    expect_rounded(f.be, y, f.y);
    kd_test_free(y);
    free_gated(&f);
}

Test(ops_combine, bf16_shared_expert_is_near_f32)
{
    gated exact = make_gated(KD_F32, 17, 130), rounded = make_gated(KD_BF16, 17, 130);
    (void)gated_sum(&exact);
    (void)gated_sum(&rounded);
    exact.be->ops->gated_add_backward(exact.be, exact.dx, exact.d_gate, exact.dy, exact.x,
                                      exact.gate);
    rounded.be->ops->gated_add_backward(rounded.be, rounded.dx, rounded.d_gate, rounded.dy,
                                        rounded.x, rounded.gate);
    cr_expect_lt(kd_test_nmse(rounded.y, exact.y), 1e-5);
    cr_expect_lt(kd_test_nmse(rounded.dx, exact.dx), 1e-5);
    cr_expect_lt(kd_test_nmse(rounded.d_gate, exact.d_gate), 1e-4);
    free_gated(&exact);
    free_gated(&rounded);
}
