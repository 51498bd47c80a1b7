/* Products of the experts by wgmma and TMA: what the plain kernel's tests do not reach, and that it is this one. */
#include <criterion/criterion.h>
#include <math.h>

#include "tensor/cuda/kernels.h"
#include "tests/support/experts_case.h"

enum { OPERATIONS = 4 }; /* of a case */

static kd_backend *fast_backend(kd_dtype compute)
{
    kd_test_use_kernels("fast");
    kd_backend *be = kd_test_backend(compute, 1);
    kd_test_use_kernels(NULL);
    return be;
}

static void expect_runs(kd_backend *be, int64_t n)
{
    cr_expect_eq(kd_cuda_runs(be, KD_CUDA_KERNEL_EXPERTS_FAST), n);
}

static void expect_fast(const experts_shape *s)
{
    kd_backend *be = fast_backend(s->compute);
    experts_case_check(be, s);
    expect_runs(be, OPERATIONS);
    kd_backend_destroy(be);
}

/* Tiles are 128 by 256, of which a warpgroup has 64 rows, and the depth goes by 64. */
Test(ops_cuda_experts, segments_may_have_any_number_of_rows)
{
    experts_shape s = {KD_BF16, KD_BF16, 8, 136, 72, 0, {0, 0, 1, 32, 64, 97, 226, 226, 290}};
    expect_fast(&s);
    s.dtype_y = KD_F32;
    expect_fast(&s);
}

Test(ops_cuda_experts, columns_may_need_several_tiles)
{
    experts_shape s = {KD_BF16, KD_BF16, 3, 264, 24, 0, {0, 32, 32, 96}};
    expect_fast(&s);
    s.width_y = 24;
    s.width_x = 520;
    expect_fast(&s);
}

Test(ops_cuda_experts, the_ring_of_stages_goes_round)
{
    const experts_shape s = {KD_BF16, KD_BF16, 2, 48, 384, 0, {0, 40, 360}};
    expect_fast(&s);
}

Test(ops_cuda_experts, all_rows_may_be_of_one_or_of_none)
{
    experts_shape s = {KD_BF16, KD_BF16, 4, 64, 64, 0, {0, 0, 0, 300, 300}};
    expect_fast(&s);
    s = (experts_shape){KD_BF16, KD_BF16, 4, 64, 64, 0, {0}};
    expect_fast(&s);
}

/* More than a warp counts at once, and more tiles than blocks. */
Test(ops_cuda_experts, there_may_be_many)
{
    experts_shape s = {KD_BF16, KD_BF16, 45, 16, 32, 0, {0}};
    for (int e = 0; e < s.n_experts; e++) {
        s.offsets[e + 1] = s.offsets[e] + (e % 4 == 1 ? 32 : 0);
    }
    expect_fast(&s);
}

/* Rows that TMA can load, of widths that 16 bytes do not divide: results go in pairs or one by one. */
Test(ops_cuda_experts, widths_may_be_odd)
{
    const experts_shape s = {KD_BF16, KD_BF16, 3, 139, 75, 5, {0, 33, 33, 192}};
    expect_fast(&s);
}

static void set_rows(kd_tensor t, int64_t first, int64_t n, double value)
{
    for (int64_t i = 0; i < n * kd_tensor_columns(t); i++) {
        kd_test_set(t, first + i / kd_tensor_columns(t), i % kd_tensor_columns(t), value);
    }
}

/* A box has rows of the next expert where this one's end; nothing of them may come into a sum. */
Test(ops_cuda_experts, what_is_no_number_stays_with_its_expert)
{
    kd_backend *be = fast_backend(KD_BF16);
    const experts_shape s = {KD_BF16, KD_BF16, 3, 72, 40, 0, {0, 40, 80, 112}};
    experts_case c = experts_case_make(&s);
    set_rows(c.x, 40, 40, NAN);
    set_rows(c.dy, 40, 40, NAN);
    set_rows(c.w, 72, 72, NAN);
    experts_case_run(&c, be);
    for (int e = 0; e < 3; e += 2) {
        experts_case_refer(&c, e, 1, 2);
        experts_case_expect(&c, e, 1);
    }
    cr_expect(isnan(kd_test_get(c.y, 79, 71)) && isnan(kd_test_get(c.dw, 72, 0)));
    expect_runs(be, OPERATIONS);
    experts_case_release(&c);
    kd_backend_destroy(be);
}

static void expect_same_bits(kd_tensor a, kd_tensor b)
{
    for (int64_t i = 0; i < kd_tensor_elements(a); i++) {
        const int64_t row = i / kd_tensor_columns(a), column = i % kd_tensor_columns(a);
        cr_assert_eq(kd_test_get(a, row, column), kd_test_get(b, row, column),
                     "row %lld, column %lld", (long long)row, (long long)column);
    }
}

Test(ops_cuda_experts, a_second_run_gives_the_same_bits)
{
    kd_backend *be = fast_backend(KD_BF16);
    const experts_shape s = {KD_BF16, KD_F32, 3, 72, 136, 0, {0, 130, 140, 172}};
    experts_case first = experts_case_make(&s), second = experts_case_make(&s);
    experts_case_run(&first, be);
    experts_case_run(&second, be);
    set_rows(first.y, 172, 32, 0.0);
    set_rows(second.y, 172, 32, 0.0);
    expect_same_bits(first.y, second.y);
    expect_same_bits(first.dx, second.dx);
    expect_same_bits(first.dw, second.dw);
    experts_case_release(&second);
    experts_case_release(&first);
    kd_backend_destroy(be);
}

/* Rows that do not all begin at multiples of 16 bytes; f32; a capability that has no wgmma is kernels.h's. */
Test(ops_cuda_experts, operands_that_do_not_suit_take_the_plain_kernel)
{
    experts_shape s = {KD_BF16, KD_BF16, 3, 40, 24, 1, {0, 32, 32, 64}};
    for (int i = 0; i < 2; i++) {
        kd_backend *be = fast_backend(s.compute);
        experts_case_check(be, &s);
        expect_runs(be, 0);
        kd_backend_destroy(be);
        s = (experts_shape){KD_F32, KD_F32, 3, 40, 24, 0, {0, 32, 32, 64}};
    }
}

Test(ops_cuda_experts, plain_is_plain)
{
    const experts_shape s = {KD_BF16, KD_BF16, 3, 40, 24, 0, {0, 32, 32, 64}};
    kd_test_use_kernels("plain");
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    kd_test_use_kernels(NULL);
    experts_case_check(be, &s);
    expect_runs(be, 0);
    kd_backend_destroy(be);
}
