/* What products on the CPU have of their own: bf16 where the processor multiplies f32 only. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/support/ops_check.h"
#include "tests/support/product_check.h"

Test(ops_cpu_products, bad_arguments_make_no_back_end)
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

Test(ops_cpu_products, bf16_that_is_only_emulated_counts_as_lacking)
{
    limit_to("AVX512_CORE");
    cr_expect_not(kd_cpu_multiplies_bf16());
}

Test(ops_cpu_products, widened_products_follow_the_formula)
{
    limit_to("AVX2");
    cr_expect_not(kd_cpu_multiplies_bf16());
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {33, 8, 64}, {520, 515, 17}, {3, 515, 520}, {515, 3, 520}, {2, 5, 1500},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        kd_test_linear(KD_BF16, KD_BF16, shapes[i][0], shapes[i][1], shapes[i][2]);
        kd_test_linear(KD_BF16, KD_F32, shapes[i][0], shapes[i][1], shapes[i][2]);
    }
}

/* 1 + 2^-9 is half a step of bf16 above 1: rounding before the last sum would lose it each time. */
Test(ops_cpu_products, a_widened_product_rounds_its_finished_sum_once)
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
