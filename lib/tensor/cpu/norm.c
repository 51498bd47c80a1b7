/*
 * norm.c - RMSNorm of the residual stream, with the delta of the block before added on the way: the stream
 * crosses memory once instead of twice. dw is summed by part and then over parts, in order.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

typedef struct norm_args {
    kd_tensor y, sum, x, delta;
    const float *w;
    float *rstd; /* NULL: not kept */
    int64_t columns;
    float eps;
} norm_args;

KD_INLINE float squares_of_row(const float *x, int64_t n)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) {
        squares += x[i] * x[i];
    }
    return squares;
}

/* Forms sum = x + delta, and returns its sum of squares. */
KD_INLINE float
squares_of_sum(float *sum, const float *x, const void *delta, kd_dtype dtype, int64_t n)
{
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) {
        const float s = x[i] + kd_get(delta, i, dtype);
        sum[i] = s;
        squares += s * s;
    }
    return squares;
}

static float squares_of(const norm_args *a, int64_t row)
{
    const float *x = kd_row(a->x, row);
    if (a->delta.data == NULL) {
        return squares_of_row(x, a->columns);
    }
    const void *delta = kd_row(a->delta, row);
    return a->delta.dtype == KD_BF16
               ? squares_of_sum(kd_row(a->sum, row), x, delta, KD_BF16, a->columns)
               : squares_of_sum(kd_row(a->sum, row), x, delta, KD_F32, a->columns);
}

KD_INLINE void scale_row(void *y, kd_dtype dtype, const float *x, const norm_args *a, float rstd)
{
    const float *w = a->w;
    const int64_t columns = a->columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) {
        kd_put(y, i, dtype, w[i] * (x[i] * rstd));
    }
}

static void norm_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const norm_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const float rstd = 1.0f / sqrtf(squares_of(a, row) / (float)a->columns + a->eps);
        const float *x = kd_row(a->delta.data == NULL ? a->x : a->sum, row);
        if (a->y.dtype == KD_BF16) {
            scale_row(kd_row(a->y, row), KD_BF16, x, a, rstd);
        } else {
            scale_row(kd_row(a->y, row), KD_F32, x, a, rstd);
        }
        if (a->rstd != NULL) {
            a->rstd[row] = rstd;
        }
    }
}

void KD_KERNEL(norm)(kd_backend *be,
                     kd_tensor y,
                     kd_tensor sum,
                     kd_tensor x,
                     kd_tensor delta,
                     kd_tensor w,
                     kd_tensor rstd,
                     float eps)
{
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);
    kd_check_norm(be, y, sum, x, delta, w, rstd);
    if (!be->fault) {
        const norm_args a = {y, sum, x, delta, w.data, rstd.data, columns, eps};
        (void)kd_parallel_rows(be, rows, kd_grain(columns), norm_rows, &a);
    }
}

typedef struct norm_backward_args {
    kd_tensor dx, dy, x;
    const float *w, *rstd;
    float *dw; /* (parts, C) sums of each part's rows */
    int64_t columns;
} norm_backward_args;

/*
 * With xh = x * rstd and g = w * dy:  dx = rstd * (g - xh * mean(g * xh)),  dw = sum of dy * xh.
 */
KD_INLINE void
norm_backward_row(const norm_backward_args *a, int64_t row, float *dw, kd_dtype dtype)
{
    const void *dy = kd_row(a->dy, row);
    const float *x = kd_row(a->x, row), *w = a->w;
    float *dx = kd_row(a->dx, row);
    const int64_t columns = a->columns;
    const float rstd = a->rstd[row];
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < columns; i++) {
        const float g = kd_get(dy, i, dtype) * (x[i] * rstd);
        dw[i] += g;
        dot += g * w[i];
    }
    const float mean = dot / (float)columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) {
        dx[i] += rstd * (w[i] * kd_get(dy, i, dtype) - x[i] * rstd * mean);
    }
}

static void norm_backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const norm_backward_args *a = args;
    float *dw = a->dw + lane * a->columns;
    memset(dw, 0, (size_t)a->columns * sizeof *dw);
    for (int64_t row = begin; row < end; row++) {
        if (a->dy.dtype == KD_BF16) {
            norm_backward_row(a, row, dw, KD_BF16);
        } else {
            norm_backward_row(a, row, dw, KD_F32);
        }
    }
}

void KD_KERNEL(norm_backward)(kd_backend *be,
                              kd_tensor dx,
                              kd_tensor dw,
                              kd_tensor dy,
                              kd_tensor x,
                              kd_tensor w,
                              kd_tensor rstd,
                              bool accumulate)
{
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);
    kd_check_norm_backward(dx, dw, dy, x, w, rstd);
    if (be->fault) {
        return;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    float *partial = kd_cpu_scratch(be, (size_t)be->n_threads * (size_t)columns * sizeof *partial);
    if (partial != NULL) {
        const norm_backward_args a = {dx, dy, x, w.data, rstd.data, partial, columns};
        const int n_parts = kd_parallel_rows(be, rows, kd_grain(columns), norm_backward_rows, &a);
        if (dw.data != NULL) {
            kd_sum_partials(dw.data, partial, n_parts, columns, accumulate);
        }
    }
    kd_cpu_scratch_rewind(be, mark);
}
