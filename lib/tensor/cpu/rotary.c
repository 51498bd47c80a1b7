/*
 * rotary.c - the backward pass is the same turn the other way. Angles come from a table by position, so
 * packed sequences begin at 0 again.
 */
#include "tensor/cpu/cpu.h"

typedef struct rotate_args {
    kd_tensor x, table;
    const int32_t *positions; /* (N), or NULL: row mod the table's rows */
    int64_t n_heads, half;    /* D / 2 */
    float sign;               /* of the sines: -1 turns back */
} rotate_args;

/* (x_i, x_{i + D/2}) is turned by the angle of i at this row's position. */
KD_INLINE void rotate_row(const rotate_args *a, int64_t row, kd_dtype dtype)
{
    const int64_t n_positions = kd_tensor_rows(a->table);
    const int64_t at = a->positions != NULL ? a->positions[row] : row % n_positions;
    const float *cosine = kd_row(a->table, at);
    const int64_t half = a->half, size = (int64_t)kd_dtype_bytes(dtype);
    const float *sine = cosine + half;
    const float sign = a->sign;
    for (int64_t h = 0; h < a->n_heads; h++) {
        char *low = (char *)kd_row(a->x, row) + 2 * h * half * size;
        char *high = low + half * size;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
            const float x = kd_get(low, i, dtype), y = kd_get(high, i, dtype);
            const float s = sign * sine[i];
            kd_put(low, i, dtype, x * cosine[i] - y * s);
            kd_put(high, i, dtype, y * cosine[i] + x * s);
        }
    }
}

static void rotate_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const rotate_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->x.dtype == KD_BF16) {
            rotate_row(a, row, KD_BF16);
        } else {
            rotate_row(a, row, KD_F32);
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

void KD_KERNEL(rotate)(kd_backend *be,
                       kd_tensor x,
                       int64_t n_heads,
                       kd_tensor table,
                       kd_tensor positions,
                       bool inverse)
{
    const int64_t columns = kd_tensor_columns(x);
    kd_check_rotate(x, n_heads, table, positions);
    check_positions(positions, kd_tensor_rows(x), kd_tensor_rows(table));
    if (!be->fault) {
        const rotate_args a = {
            x, table, positions.data, n_heads, columns / n_heads / 2, inverse ? -1.0f : 1.0f};
        (void)kd_parallel_rows(be, kd_tensor_rows(x), kd_grain(columns), rotate_rows, &a);
    }
}
