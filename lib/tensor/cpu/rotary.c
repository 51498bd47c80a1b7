/*
 * rotary.c - the backward pass is the same turn the other way. Angles come from a table by position, so
 * packed sequences begin at 0 again.
 */
#include "tensor/cpu/rotary.h"

static void rotate_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const kd_rotary *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->x.dtype == KD_BF16) {
            kd_rotary_row(a, row, KD_BF16);
        } else {
            kd_rotary_row(a, row, KD_F32);
        }
    }
}

static void check_positions(kd_tensor positions, int64_t n_rows, int64_t n_positions)
{
    const int32_t *at = positions.data;
    for (int64_t row = 0; at != NULL && row < n_rows; row++) {
        KD_CHECK(at[row] >= 0 && at[row] < n_positions);
    }
}

kd_rotary KD_KERNEL(rotary_of)(kd_tensor x, const kd_rotation *by, bool inverse)
{
    check_positions(by->positions, kd_tensor_rows(x), kd_tensor_rows(by->table));
    return (kd_rotary){.x = x,
                       .table = by->table,
                       .positions = by->positions.data,
                       .n_heads = by->n_heads,
                       .half = kd_tensor_columns(x) / by->n_heads / 2,
                       .sign = inverse ? -1.0f : 1.0f};
}

void KD_KERNEL(rotate)(kd_backend *be, kd_tensor x, const kd_rotation *by, bool inverse)
{
    kd_check_rotate(x, by);
    const kd_rotary a = KD_KERNEL(rotary_of)(x, by, inverse);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(x), kd_grain(kd_tensor_columns(x)), rotate_rows,
                               &a);
    }
}
