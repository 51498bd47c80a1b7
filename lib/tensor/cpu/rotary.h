/* rotary.h - the rotary embedding of one row, for rotary.c and for what norms heads on the way. */
#ifndef KD_TENSOR_CPU_ROTARY_H
#define KD_TENSOR_CPU_ROTARY_H

#include "tensor/cpu/cpu.h"

typedef struct kd_rotary {
    kd_tensor x, table;
    const int32_t *positions; /* (N), or NULL: row mod the table's rows */
    int64_t n_heads, half;    /* D / 2 */
    float sign;               /* of the sines: -1 turns back */
} kd_rotary;

/* (x_i, x_{i + D/2}) is turned by the angle of i at this row's position. */
KD_INLINE void kd_rotary_row(const kd_rotary *a, int64_t row, kd_dtype dtype)
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

/* Of x (N, heads * D), whose positions are looked at here. */
kd_rotary KD_KERNEL(rotary_of)(kd_tensor x, const kd_rotation *by, bool inverse);

#endif
