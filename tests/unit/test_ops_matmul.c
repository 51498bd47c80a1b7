#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/support/ops_check.h"

/* c = op(a) op(b) in doubles, where op is a transposition if asked for; c is added to. */
static void naive(kd_tensor c, kd_tensor a, bool trans_a, kd_tensor b, bool trans_b)
{
    const int64_t depth = trans_a ? a.dims[0] : a.dims[1];
    for (int64_t i = 0; i < c.dims[0] * c.dims[1]; i++) {
        const int64_t row = i / c.dims[1], column = i % c.dims[1];
        double sum = kd_test_get(c, row, column);
        for (int64_t k = 0; k < depth; k++) {
            sum += (trans_a ? kd_test_get(a, k, row) : kd_test_get(a, row, k)) *
                   (trans_b ? kd_test_get(b, column, k) : kd_test_get(b, k, column));
        }
        kd_test_set(c, row, column, sum);
    }
}

/* y (N, O) = x (N, K) w^T and both gradients, with rows of every matrix strided. */
static void expect_linear(kd_dtype compute, kd_dtype dtype_y, int64_t n, int64_t o, int64_t k)
{
    kd_backend *be = kd_test_backend(compute, 1);
    const double limit = compute == KD_F32 ? 1e-12 : 2e-5;
    const kd_tensor x = kd_test_padded(compute, n, k, 3, 1),
                    w = kd_test_padded(compute, o, k, 1, 2);
    const kd_tensor y = kd_test_padded(dtype_y, n, o, 5, 3),
                    dx = kd_test_padded(compute, n, k, 2, 4);
    const kd_tensor dw = kd_test_zeros(KD_F32, o, k);
    const kd_tensor y_ref = kd_test_zeros(KD_F64, n, o), dx_ref = kd_test_zeros(KD_F64, n, k);
    const kd_tensor dw_ref = kd_test_zeros(KD_F64, o, k);
    be->ops->linear(be, y, x, w);
    naive(y_ref, x, false, w, true);
    be->ops->linear_backward_x(be, dx, y, w);
    naive(dx_ref, y, false, w, false);
    for (int twice = 0; twice < 2; twice++) {
        be->ops->linear_backward_w(be, dw, y, x, true);
        naive(dw_ref, y, true, x, false);
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_lt(kd_test_nmse(y, y_ref), limit, "y of %lld %lld %lld", n, o, k);
    cr_expect_lt(kd_test_nmse(dx, dx_ref), limit, "dx of %lld %lld %lld", n, o, k);
    cr_expect_lt(kd_test_nmse(dw, dw_ref), limit, "dw of %lld %lld %lld", n, o, k);
    const kd_tensor all[] = {x, w, y, dx, dw, y_ref, dx_ref, dw_ref};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(be);
}

Test(ops_matmul, linear_and_its_gradients_follow_the_formula)
{
    static const int64_t shapes[][3] = {{1, 1, 1},   {3, 17, 1},  {17, 3, 33},
                                        {1, 64, 64}, {33, 8, 64}, {130, 70, 17}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        expect_linear(KD_F32, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
        expect_linear(KD_BF16, KD_BF16, shapes[i][0], shapes[i][1], shapes[i][2]);
        expect_linear(KD_BF16, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
}

Test(ops_matmul, a_known_product)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const kd_tensor x = kd_test_zeros(KD_F32, 1, 2), w = kd_test_zeros(KD_F32, 2, 2);
    const kd_tensor y = kd_test_zeros(KD_F32, 1, 2);
    for (int i = 0; i < 2; i++) {
        kd_test_set(x, 0, i, i + 1.0);
        kd_test_set(w, 0, i, i + 3.0);
        kd_test_set(w, 1, i, i + 5.0);
    }
    be->ops->linear(be, y, x, w);
    cr_expect_eq(kd_test_get(y, 0, 0), 11.0);
    cr_expect_eq(kd_test_get(y, 0, 1), 17.0);
    kd_test_free(x);
    kd_test_free(w);
    kd_test_free(y);
    kd_backend_destroy(be);
}

Test(ops_matmul, many_shapes_in_one_cache_stay_apart)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const kd_tensor x = kd_test_random(KD_F32, 20, 20, 1), w = kd_test_random(KD_F32, 20, 20, 2);
    for (int round = 0; round < 2; round++) {
        for (int64_t n = 1; n <= 400; n++) { /* more than the first table holds */
            const int64_t rows = (n - 1) / 20 + 1, columns = (n - 1) % 20 + 1;
            const kd_tensor y = kd_test_zeros(KD_F32, rows, columns);
            const kd_tensor y_ref = kd_test_zeros(KD_F64, rows, columns);
            const kd_tensor x_part = kd_tensor_slice_rows(x, 0, rows);
            const kd_tensor w_part = kd_tensor_slice_rows(w, 0, columns);
            be->ops->linear(be, y, x_part, w_part);
            naive(y_ref, x_part, false, w_part, true);
            cr_assert_lt(kd_test_nmse(y, y_ref), 1e-10, "%lld x %lld", rows, columns);
            kd_test_free(y);
            kd_test_free(y_ref);
        }
    }
    kd_test_free(x);
    kd_test_free(w);
    kd_backend_destroy(be);
}

Test(ops_matmul, two_threads_agree_with_one)
{
    kd_backend *one = kd_test_backend(KD_BF16, 1), *two = kd_test_backend(KD_BF16, 2);
    const kd_tensor x = kd_test_random(KD_BF16, 130, 70, 1), w = kd_test_random(KD_BF16, 90, 70, 2);
    const kd_tensor y1 = kd_test_zeros(KD_F32, 130, 90), y2 = kd_test_zeros(KD_F32, 130, 90);
    one->ops->linear(one, y1, x, w);
    two->ops->linear(two, y2, x, w);
    cr_expect_lt(kd_test_nmse(y2, y1), 1e-12);
    kd_test_free(x);
    kd_test_free(w);
    kd_test_free(y1);
    kd_test_free(y2);
    kd_backend_destroy(one);
    kd_backend_destroy(two);
}

/* Segments of 0, 32, 64 and 1952 rows: none, one tile, two, and two products of one segment. */
static const int32_t offsets[] = {0, 0, 32, 96, 2048};

static void expect_experts(kd_dtype compute)
{
    enum { E = 4, R = 2080, O = 6, K = 10 };

    kd_backend *be = kd_test_backend(compute, 1);
    const double limit = compute == KD_F32 ? 1e-10 : 2e-5;
    const kd_tensor x = kd_test_random(compute, R, K, 1), w = kd_test_random(compute, E * O, K, 2);
    const kd_tensor y = kd_test_random(compute, R, O, 3),
                    y_before = kd_test_random(compute, R, O, 3);
    const kd_tensor dx = kd_test_random(compute, R, K, 4), dw = kd_test_zeros(KD_F32, E * O, K);
    const kd_tensor y_ref = kd_test_zeros(KD_F64, R, O), dx_ref = kd_test_zeros(KD_F64, R, K);
    const kd_tensor dw_ref = kd_test_zeros(KD_F64, E * O, K);
    const kd_route route = {.offset = kd_test_i32(offsets, E + 1)};
    const kd_tensor w3 = kd_tensor_3d(w.data, compute, E, O, K);
    be->ops->experts(be, y, x, w3, &route);
    be->ops->experts_backward_x(be, dx, y, w3, &route);
    be->ops->experts_backward_w(be, kd_tensor_3d(dw.data, KD_F32, E, O, K), y, x, &route, true);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    for (int64_t e = 0; e < E; e++) {
        const int64_t at = offsets[e], n = offsets[e + 1] - at;
        const kd_tensor we = kd_tensor_slice_rows(w, e * O, O);
        naive(kd_tensor_slice_rows(y_ref, at, n), kd_tensor_slice_rows(x, at, n), false, we, true);
        naive(kd_tensor_slice_rows(dx_ref, at, n), kd_tensor_slice_rows(y, at, n), false, we,
              false);
        naive(kd_tensor_slice_rows(dw_ref, e * O, O), kd_tensor_slice_rows(y, at, n), true,
              kd_tensor_slice_rows(x, at, n), false);
    }
    cr_expect_lt(kd_test_nmse(kd_tensor_slice_rows(y, 0, offsets[E]),
                              kd_tensor_slice_rows(y_ref, 0, offsets[E])),
                 limit);
    cr_expect_lt(kd_test_nmse(kd_tensor_slice_rows(dx, 0, offsets[E]),
                              kd_tensor_slice_rows(dx_ref, 0, offsets[E])),
                 limit);
    cr_expect_lt(kd_test_nmse(dw, dw_ref), limit);
    cr_expect_eq(kd_test_nmse(kd_tensor_slice_rows(y, offsets[E], R - offsets[E]),
                              kd_tensor_slice_rows(y_before, offsets[E], R - offsets[E])),
                 0.0, "rows past the last segment are not written");
    const kd_tensor all[] = {x, w, y, y_before, dx, dw, y_ref, dx_ref, dw_ref, route.offset};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(be);
}

Test(ops_matmul, experts_multiply_their_own_segments)
{
    expect_experts(KD_F32);
    expect_experts(KD_BF16);
}

Test(ops_matmul, a_gradient_in_f32_is_rounded_before_bf16_products)
{
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    const kd_tensor dy = kd_test_padded(KD_F32, 17, 6, 3, 1), w = kd_test_random(KD_BF16, 6, 10, 2);
    const kd_tensor dx = kd_test_zeros(KD_F32, 17, 10), dx_ref = kd_test_zeros(KD_F64, 17, 10);
    be->ops->linear_backward_x(be, dx, dy, w);
    naive(dx_ref, dy, false, w, false);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_lt(kd_test_nmse(dx, dx_ref), 2e-5);
    kd_test_free(dy);
    kd_test_free(w);
    kd_test_free(dx);
    kd_test_free(dx_ref);
    kd_backend_destroy(be);
}

Test(ops_matmul, bad_arguments_make_no_back_end)
{
    kd_backend *be = NULL;
    cr_expect_eq(kd_backend_create_cpu(KD_I32, 1, &be), KD_ERR_ARG);
    cr_expect_eq(kd_backend_create_cpu(KD_F32, 0, &be), KD_ERR_ARG);
    cr_expect_null(be);
    kd_backend_destroy(NULL);
}

/* Before oneDNN looks at the CPU: as on a processor that multiplies f32 only. */
static void limit_to(const char *isa)
{
    cr_assert_eq(setenv("ONEDNN_MAX_CPU_ISA", isa, 1), 0);
}

Test(ops_matmul, bf16_that_is_only_emulated_counts_as_lacking)
{
    limit_to("AVX512_CORE");
    cr_expect_not(kd_cpu_multiplies_bf16());
}

Test(ops_matmul, widened_products_follow_the_formula)
{
    limit_to("AVX2");
    cr_expect_not(kd_cpu_multiplies_bf16());
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {33, 8, 64}, {520, 515, 17}, {3, 515, 520}, {515, 3, 520}, {2, 5, 1500},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        expect_linear(KD_BF16, KD_BF16, shapes[i][0], shapes[i][1], shapes[i][2]);
        expect_linear(KD_BF16, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
}

/* 1 + 2^-9 is half a step of bf16 above 1: rounding before the last sum would lose it each time. */
Test(ops_matmul, a_widened_product_rounds_its_finished_sum_once)
{
    enum { DEPTH = 2048 };

    limit_to("AVX2");
    kd_backend *be = kd_test_backend(KD_BF16, 2);
    const kd_tensor x = kd_test_zeros(KD_BF16, 1, DEPTH), w = kd_test_zeros(KD_BF16, 1, DEPTH);
    const kd_tensor y = kd_test_zeros(KD_BF16, 1, 1);
    for (int64_t k = 0; k < DEPTH; k++) {
        kd_test_set(x, 0, k, k == 0 ? 1.0 : 0x1p-9);
        kd_test_set(w, 0, k, 1.0);
    }
    be->ops->linear(be, y, x, w);
    cr_expect_eq(kd_test_get(y, 0, 0), 5.0, "1 + 2047 / 512 to the nearest");
    kd_test_free(x);
    kd_test_free(w);
    kd_test_free(y);
    kd_backend_destroy(be);
}

Test(ops_matmul, memory_comes_zeroed_and_an_absurd_size_is_refused)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    unsigned char *memory = be->ops->alloc(be, KD_MEMORY_DEVICE, 5000);
    cr_assert_not_null(memory);
    cr_expect_eq((uintptr_t)memory % KD_ARENA_ALIGN, 0);
    for (int i = 0; i < 5000; i++) {
        cr_assert_eq(memory[i], 0);
    }
    be->ops->free(be, memory);
    be->ops->free(be, NULL);
    cr_expect_null(be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)1 << 55));
    cr_expect_null(be->ops->alloc(be, KD_MEMORY_DEVICE, SIZE_MAX));
    cr_expect_eq(kd_backend_wait(be), KD_OK, "a refused allocation is not a fault of the queue");
    kd_backend_destroy(be);
}
