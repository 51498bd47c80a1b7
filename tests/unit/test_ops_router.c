#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "tests/support/ops_check.h"

typedef struct fixture {
    kd_backend *be;
    kd_route route;
    kd_tensor logits, d_logits, d_weights, sums;
    float balance_weight, z_weight;
} fixture;

static kd_tensor integers(int64_t n)
{
    return kd_tensor_1d(kd_test_zeros(KD_I32, 1, n).data, KD_I32, n);
}

static kd_tensor integers_2d(int64_t rows, int64_t columns)
{
    return kd_test_zeros(KD_I32, rows, columns);
}

static fixture make(int n_threads, int64_t n, int64_t n_experts, int64_t k, bool renormalise)
{
    kd_backend *be = kd_test_backend(KD_F32, n_threads);
    return (fixture){
        .be = be,
        .route = {.probs = kd_test_zeros(KD_F32, n, n_experts),
                  .experts = integers_2d(n, k),
                  .weights = kd_test_zeros(KD_F32, n, k),
                  .position = integers_2d(n, k),
                  .token = integers(kd_expert_rows(be, n, k, n_experts)),
                  .offset = integers(n_experts + 1),
                  .renormalise = renormalise},
        .logits = kd_test_random(KD_F32, n, n_experts, 1),
        .d_logits = kd_test_zeros(KD_F32, n, n_experts),
        .d_weights = kd_test_random(KD_F32, n, k, 2),
        .sums = kd_test_zeros(KD_F64, 1, 2),
    };
}

static void release(fixture *f)
{
    const kd_tensor all[] = {f->route.probs, f->route.experts, f->route.weights, f->route.position,
                             f->route.token, f->route.offset,  f->logits,        f->d_logits,
                             f->d_weights,   f->sums};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(f->be);
}

static void route(fixture *f)
{
    f->be->ops->route(f->be, &f->route, f->logits);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

/* Every token has one row for each of its experts, in that expert's segment; the rest is padding. */
static void expect_consistent(const fixture *f)
{
    const int64_t n = f->logits.dims[0], n_experts = f->logits.dims[1],
                  k = f->route.experts.dims[1];
    const int32_t *offset = kd_test_ints(f->route.offset), *token = kd_test_ints(f->route.token);
    int64_t n_used = 0;
    for (int64_t i = 0; i < n * k; i++) {
        const int32_t e = kd_test_ints(f->route.experts)[i],
                      row = kd_test_ints(f->route.position)[i];
        cr_assert(e >= 0 && e < n_experts);
        cr_assert(row >= offset[e] && row < offset[e + 1]);
        cr_assert_eq(token[row], i / k);
        for (int64_t j = i / k * k; j < i; j++) {
            cr_assert_neq(kd_test_ints(f->route.experts)[j], e, "an expert was picked twice");
        }
    }
    for (int64_t e = 0; e <= n_experts; e++) {
        cr_assert_eq(offset[e] % f->be->expert_tile, 0);
    }
    for (int64_t row = 0; row < f->route.token.dims[0]; row++) {
        n_used += token[row] >= 0;
        cr_assert(token[row] < 0 || row < offset[n_experts]);
    }
    cr_assert_eq(n_used, n * k);
}

Test(ops_router, known_logits_give_known_routes)
{
    fixture f = make(1, 2, 3, 2, true);
    const double logits[2][3] = {{0.0, log(3.0), log(2.0)}, {1.0, 1.0, 1.0}};
    for (int i = 0; i < 6; i++) {
        kd_test_set(f.logits, i / 3, i % 3, logits[i / 3][i % 3]);
    }
    route(&f);
    expect_consistent(&f);
    cr_expect_float_eq(kd_test_get(f.route.probs, 0, 1), 0.5, 1e-6);
    cr_expect_eq(kd_test_ints(f.route.experts)[0], 1);
    cr_expect_eq(kd_test_ints(f.route.experts)[1], 2);
    cr_expect_eq(kd_test_ints(f.route.experts)[2], 0, "ties go to the lower id");
    cr_expect_eq(kd_test_ints(f.route.experts)[3], 1);
    cr_expect_float_eq(kd_test_get(f.route.weights, 0, 0), 0.6, 1e-6);
    cr_expect_eq(kd_test_ints(f.route.offset)[3], 3 * f.be->expert_tile);
    release(&f);
}

Test(ops_router, odd_shapes_stay_consistent)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {3, 5, 5}, {17, 8, 2}, {1000, 64, 6}, {33, 300, 3}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        fixture f = make(2, shapes[i][0], shapes[i][1], shapes[i][2], i % 2 == 0);
        route(&f);
        expect_consistent(&f);
        release(&f);
    }
}

Test(ops_router, logits_that_are_no_numbers_still_give_rows_that_exist)
{
    fixture f = make(1, 3, 4, 2, true);
    for (int i = 0; i < 12; i++) {
        kd_test_set(f.logits, i / 4, i % 4, i % 5 == 0 ? (double)NAN : 1.0);
    }
    route(&f);
    expect_consistent(&f);
    release(&f);
}

/* The routing loss, with the choice of experts and their shares held where they are. */
static double router_loss(void *user)
{
    fixture *f = user;
    const int64_t n = f->logits.dims[0], n_experts = f->logits.dims[1],
                  k = f->route.experts.dims[1];
    double loss = 0.0;
    for (int64_t row = 0; row < n; row++) {
        double sum = 0.0, chosen = 0.0;
        for (int64_t e = 0; e < n_experts; e++) {
            sum += exp(kd_test_get(f->logits, row, e));
        }
        for (int64_t j = 0; j < k; j++) {
            chosen +=
                exp(kd_test_get(f->logits, row, kd_test_ints(f->route.experts)[row * k + j])) / sum;
        }
        for (int64_t j = 0; j < k; j++) {
            const int32_t e = kd_test_ints(f->route.experts)[row * k + j];
            const double p = exp(kd_test_get(f->logits, row, e)) / sum;
            loss += kd_test_get(f->d_weights, row, j) * (f->route.renormalise ? p / chosen : p);
        }
        for (int64_t i = 0; i < n * k; i++) { /* each assignment of an expert counts its share */
            const int32_t e = kd_test_ints(f->route.experts)[i];
            loss += (double)f->balance_weight * (double)n_experts / (double)(n * k) *
                    exp(kd_test_get(f->logits, row, e)) / sum;
        }
        loss += (double)f->z_weight * log(sum) * log(sum);
    }
    return loss;
}

static void add_losses(fixture *f, kd_tensor segments)
{
    f->be->ops->router_loss(
        f->be, &(kd_router_loss){.logits = f->logits,
                                 .d_logits = f->d_logits,
                                 .segments = segments,
                                 .route = &f->route,
                                 .balance_scale = f->balance_weight,
                                 .z_scale = f->z_weight,
                                 .balance_sum = kd_tensor_1d(f->sums.data, KD_F64, 1),
                                 .z_sum = kd_tensor_1d((double *)f->sums.data + 1, KD_F64, 1)});
}

static void expect_gradient(int64_t n, int64_t n_experts, int64_t k, bool renormalise)
{
    fixture f = make(1, n, n_experts, k, renormalise);
    f.balance_weight = 0.7f;
    f.z_weight = 0.3f;
    route(&f);
    f.be->ops->route_backward(f.be, f.d_logits, f.d_weights, f.logits, &f.route);
    add_losses(&f, kd_tensor_none());
    cr_expect_lt(kd_test_slope_error(router_loss, &f, f.logits, f.d_logits, 1e-3), 1e-3,
                 "%lld experts", (long long)n_experts);
    release(&f);
}

Test(ops_router, gradients_match_central_differences)
{
    expect_gradient(1, 3, 1, false);
    expect_gradient(3, 5, 2, true);
    expect_gradient(17, 8, 3, true);
    expect_gradient(17, 8, 3, false);
}

Test(ops_router, equal_logits_cost_one_in_balance_and_their_log_in_z)
{
    fixture f = make(1, 6, 4, 2, false);
    f.be->ops->zero(f.be, f.logits);
    kd_test_set(f.sums, 0, 0, 10.0);
    route(&f);
    add_losses(&f, kd_tensor_none());
    cr_expect_float_eq(kd_test_get(f.sums, 0, 0), 16.0, 1e-5, "N * 1 is added");
    cr_expect_float_eq(kd_test_get(f.sums, 0, 1), 6.0 * log(4.0) * log(4.0), 1e-5);
    release(&f);
}

/* The first rows alone, and the same rows followed by padding. */
Test(ops_router, losses_leave_padding_out)
{
    enum { REAL = 5, ALL = 9, E = 4 };

    fixture real = make(1, REAL, E, 2, true), all = make(1, ALL, E, 2, true);
    int32_t segments[ALL];

    for (int row = 0; row < ALL; row++) {
        segments[row] = row < REAL ? 3 : -1;
        for (int e = 0; e < E && row < REAL; e++) {
            kd_test_set(all.logits, row, e, kd_test_get(real.logits, row, e));
        }
    }
    real.balance_weight = all.balance_weight = 0.7f;
    real.z_weight = all.z_weight = 0.3f;
    route(&real);
    route(&all);
    add_losses(&real, kd_tensor_none());
    const kd_tensor padded = kd_test_i32(segments, ALL);
    add_losses(&all, padded);
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(kd_test_get(all.sums, 0, i), kd_test_get(real.sums, 0, i));
    }
    cr_expect_eq(kd_test_nmse(kd_tensor_slice_rows(all.d_logits, 0, REAL), real.d_logits), 0.0);
    for (int i = 0; i < (ALL - REAL) * E; i++) {
        cr_expect_eq(kd_test_get(all.d_logits, REAL + i / E, i % E), 0.0);
    }
    kd_test_free(padded);
    release(&all);
    release(&real);
}

Test(ops_router, losses_add_to_the_gradient_and_only_what_is_asked)
{
    fixture f = make(2, 300, 8, 2, true);
    const kd_tensor balance = kd_tensor_1d(f.sums.data, KD_F64, 1);
    const kd_router_loss sum_only = {
        .logits = f.logits, .route = &f.route, .balance_scale = 1.0f, .balance_sum = balance};

    route(&f);
    f.balance_weight = 0.7f;
    f.z_weight = 0.3f;
    add_losses(&f, kd_tensor_none());
    const double once = kd_test_get(f.d_logits, 7, 3), sum = kd_test_get(f.sums, 0, 0);
    const double z = kd_test_get(f.sums, 0, 1);
    add_losses(&f, kd_tensor_none());
    cr_expect_float_eq(kd_test_get(f.d_logits, 7, 3), 2.0 * once, 1e-6);
    cr_expect_float_eq(kd_test_get(f.sums, 0, 0), 2.0 * sum, 1e-9 * sum);
    f.be->ops->router_loss(f.be, &sum_only);
    cr_expect_float_eq(kd_test_get(f.sums, 0, 0), 3.0 * sum, 1e-9 * sum);
    cr_expect_float_eq(kd_test_get(f.sums, 0, 1), 2.0 * z, 1e-9 * z);
    cr_expect_float_eq(kd_test_get(f.d_logits, 7, 3), 2.0 * once, 1e-6);
    release(&f);
}
