#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/support/ops_check.h"

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
    kd_test_multiply(y_ref, x, false, w, true);
    be->ops->linear_backward_x(be, dx, y, w);
    kd_test_multiply(dx_ref, y, false, w, false);
    for (int twice = 0; twice < 2; twice++) {
        be->ops->linear_backward_w(be, dw, y, x, true);
        kd_test_multiply(dw_ref, y, true, x, false);
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
            kd_test_multiply(y_ref, x_part, false, w_part, true);
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

Test(ops_matmul, a_gradient_in_f32_is_rounded_before_bf16_products)
{
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    const kd_tensor dy = kd_test_padded(KD_F32, 17, 6, 3, 1), w = kd_test_random(KD_BF16, 6, 10, 2);
    const kd_tensor dx = kd_test_zeros(KD_F32, 17, 10), dx_ref = kd_test_zeros(KD_F64, 17, 10);
    be->ops->linear_backward_x(be, dx, dy, w);
    kd_test_multiply(dx_ref, dy, false, w, false);
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
