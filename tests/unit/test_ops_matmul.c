#include <criterion/criterion.h>

#include "tests/support/ops_check.h"
#include "tests/support/product_check.h"

Test(ops_matmul, linear_and_its_gradients_follow_the_formula)
{
    static const int64_t shapes[][3] = {{1, 1, 1},   {3, 17, 1},  {17, 3, 33},
                                        {1, 64, 64}, {33, 8, 64}, {130, 70, 17}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kd_test_linear(KD_F32, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
        kd_test_linear(KD_BF16, KD_BF16, shapes[i][0], shapes[i][1], shapes[i][2]);
        kd_test_linear(KD_BF16, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
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
