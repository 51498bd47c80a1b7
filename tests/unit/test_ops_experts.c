/* Products of the experts' segments, against doubles. */
#include <criterion/criterion.h>

#include "tests/support/experts_case.h"

static void expect_experts(const experts_shape *s)
{
    kd_backend *be = kd_test_backend(s->compute, 2);
    experts_case_check(be, s);
    kd_backend_destroy(be);
}

/* Segments of 0, 32, 64 and 1952 rows: none, one tile, two, and more than a product's rows at most. */
Test(ops_experts, each_multiplies_its_own_segment)
{
    experts_shape s = {KD_F32, KD_F32, 4, 6, 10, 0, {0, 0, 32, 96, 2048}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

/* More rows and columns than a tile has, neither a multiple of anything; rows at any address. */
Test(ops_experts, rows_may_lie_at_any_distance)
{
    experts_shape s = {KD_F32, KD_F32, 5, 131, 69, 3, {0, 32, 32, 192, 224, 224}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

/* As above, but every row begins at a multiple of 16 bytes. */
Test(ops_experts, rows_at_aligned_addresses_have_tails)
{
    experts_shape s = {KD_F32, KD_F32, 5, 139, 75, 5, {0, 32, 32, 192, 224, 224}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

Test(ops_experts, results_of_bf16_may_be_f32_and_gradients_come_so)
{
    const experts_shape s = {KD_BF16, KD_F32, 3, 17, 33, 1, {0, 64, 64, 96}};
    expect_experts(&s);
}

Test(ops_experts, no_row_at_all_writes_zeros_for_the_gradient)
{
    experts_shape s = {KD_F32, KD_F32, 3, 5, 9, 0, {0, 0, 0, 0}};
    for (int i = 0; i < 2; i++) {
        expect_experts(&s);
        s.compute = s.dtype_y = KD_BF16;
    }
}

Test(ops_experts, the_gradient_of_one_without_rows_stays_where_it_is_added_to)
{
    enum { E = 3, O = 5, K = 9 };

    kd_backend *be = kd_test_backend(KD_F32, 1);
    const experts_shape s = {KD_F32, KD_F32, E, O, K, 0, {0, 32, 32, 64}};
    experts_case c = experts_case_make(&s);
    const kd_tensor before = kd_test_random(KD_F32, E * O, K, 6);
    be->ops->experts_backward_w(be, experts_case_by_expert(&c, c.dw), c.dy, c.x, &c.route, true);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_eq(kd_test_nmse(kd_tensor_slice_rows(c.dw, O, O), kd_tensor_slice_rows(before, O, O)),
                 0.0);
    cr_expect_gt(kd_test_nmse(kd_tensor_slice_rows(c.dw, 0, O), kd_tensor_slice_rows(before, 0, O)),
                 0.0);
    kd_test_free(before);
    experts_case_release(&c);
    kd_backend_destroy(be);
}
