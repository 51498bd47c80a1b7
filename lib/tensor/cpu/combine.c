/*
 * combine.c - moves rows between tokens and segments by the places that route has written down. Each row
 * has one writer in each direction, so there is nothing to lock and sums keep their order.
 */
#include <string.h>

#include "tensor/cpu/cpu.h"

/* y is by token (N, C), x by row of a segment (R, C); either may be a gradient. */
typedef struct combine_args {
    kd_tensor y, x, dx;
    const float *weights;    /* (N, K); NULL: all 1 */
    float *d_weights;        /* (N, K) */
    const int32_t *position; /* (N, K) */
    const int32_t *token;    /* (R) */
    int64_t k, columns;
} combine_args;

static combine_args args_of(kd_tensor y, kd_tensor x, const kd_route *route)
{
    const int64_t columns = kd_tensor_columns(y);
    return (combine_args){.y = y,
                          .x = x,
                          .position = route->position.data,
                          .token = route->token.data,
                          .k = kd_tensor_columns(route->position),
                          .columns = columns};
}

static void dispatch_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const combine_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const size_t size_bytes = (size_t)a->columns * kd_dtype_bytes(a->x.dtype);
        if (a->token[row] < 0) {
            memset(kd_row(a->x, row), 0, size_bytes);
        } else {
            memcpy(kd_row(a->x, row), kd_row(a->y, a->token[row]), size_bytes);
        }
    }
}

void KD_KERNEL(dispatch)(kd_backend *be, kd_tensor x, kd_tensor y, const kd_route *route)
{
    const combine_args a = args_of(y, x, route);
    kd_check_dispatch(x, y, route);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(x), kd_grain(a.columns), dispatch_rows, &a);
    }
}

KD_INLINE void scale(float *sum, const void *x, kd_dtype dtype, float weight, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        sum[i] = weight * kd_get(x, i, dtype);
    }
}

KD_INLINE void accumulate(float *sum, const void *x, kd_dtype dtype, float weight, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        sum[i] += weight * kd_get(x, i, dtype);
    }
}

/* What choice j of a token is to get: its row from column `first` on, and its weight. */
KD_INLINE const void *chosen_row(const combine_args *a, int64_t j, int64_t first, kd_dtype dtype)
{
    return (const char *)kd_row(a->x, a->position[j]) + (size_t)first * kd_dtype_bytes(dtype);
}

KD_INLINE float chosen_weight(const combine_args *a, int64_t j)
{
    return a->weights == NULL ? 1.0f : a->weights[j];
}

/* One token's sum over its experts, of which there is at least one, a block of columns at a time so that it stays in registers' reach. */
KD_INLINE void combine_row(const combine_args *a, int64_t n, kd_dtype dtype)
{
    enum { BLOCK = 256 };

    for (int64_t first = 0; first < a->columns; first += BLOCK) {
        const int64_t width = a->columns - first < BLOCK ? a->columns - first : BLOCK;
        float sum[BLOCK];
        int64_t j = n * a->k;
        scale(sum, chosen_row(a, j, first, dtype), dtype, chosen_weight(a, j), width);
        for (j++; j < (n + 1) * a->k; j++) {
            accumulate(sum, chosen_row(a, j, first, dtype), dtype, chosen_weight(a, j), width);
        }
        void *y = kd_row(a->y, n);
        if (a->y.dtype == KD_BF16) {
            for (int64_t i = 0; i < width; i++) {
                kd_put(y, first + i, KD_BF16, sum[i]);
            }
        } else {
            memcpy((float *)y + first, sum, (size_t)width * sizeof *sum);
        }
    }
}

static void combine_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const combine_args *a = args;
    (void)lane;
    for (int64_t n = begin; n < end; n++) {
        if (a->x.dtype == KD_BF16) {
            combine_row(a, n, KD_BF16);
        } else {
            combine_row(a, n, KD_F32);
        }
    }
}

void KD_KERNEL(dispatch_backward)(kd_backend *be, kd_tensor dy, kd_tensor dx, const kd_route *route)
{
    const combine_args a = args_of(dy, dx, route);
    kd_check_dispatch_backward(dy, dx, route);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(dy), kd_grain(a.columns), combine_rows, &a);
    }
}

void KD_KERNEL(combine)(kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route)
{
    combine_args a = args_of(y, x, route);
    kd_check_combine(be, y, x, route);
    a.weights = route->weights.data;
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(y), kd_grain(a.columns), combine_rows, &a);
    }
}

/* Which of its token's K places a row is. */
static int64_t place_of(const combine_args *a, int64_t row)
{
    int64_t j = a->token[row] * a->k;
    while (a->position[j] != row) {
        j++;
    }
    return j;
}

static void combine_backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const combine_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        void *dx = kd_row(a->dx, row);
        if (a->token[row] < 0) {
            memset(dx, 0, (size_t)a->columns * kd_dtype_bytes(a->dx.dtype));
            continue;
        }
        const int64_t j = place_of(a, row);
        const float *dy = kd_row(a->y, a->token[row]);
        const void *x = kd_row(a->x, row);
        a->d_weights[j] = a->x.dtype == KD_BF16
                              ? kd_scale_row(dx, dy, x, KD_BF16, a->weights[j], a->columns)
                              : kd_scale_row(dx, dy, x, KD_F32, a->weights[j], a->columns);
    }
}

void KD_KERNEL(combine_backward)(kd_backend *be,
                                 kd_tensor dx,
                                 kd_tensor d_weights,
                                 kd_tensor dy,
                                 kd_tensor x,
                                 const kd_route *route)
{
    combine_args a = args_of(dy, x, route);
    kd_check_combine_backward(dx, d_weights, dy, x, route);
    a.dx = dx;
    a.d_weights = d_weights.data;
    a.weights = route->weights.data;
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(x), kd_grain(a.columns), combine_backward_rows,
                               &a);
    }
}
