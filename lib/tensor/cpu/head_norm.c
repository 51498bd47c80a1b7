/*
 * head_norm.c - norm over parts of a row, each head's or all heads' together, alone and with the rotary
 * embedding of the row while it is in the cache; a file of its own because here dx is written and in the
 * compute dtype, where norm.c adds into the f32 residual stream.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/rotary.h"

typedef struct head_norm_args {
    kd_tensor y, x, dy, dx;
    const float *w;
    float *rstd; /* (N, heads)                            */
    float *dw;   /* (parts, D) sums of each part's rows   */
    int64_t n_heads, head_dim;
    float eps;
    const kd_rotary *turn; /* of y, or of dy back; or NULL */
} head_norm_args;

KD_INLINE void forward_row(const head_norm_args *a, int64_t row, kd_dtype dtype)
{
    const void *x = kd_row(a->x, row);
    void *y = kd_row(a->y, row);
    const float *w = a->w;
    const int64_t dim = a->head_dim;
    for (int64_t h = 0; h < a->n_heads; h++) {
        const int64_t at = h * dim;
        float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < dim; i++) {
            const float v = kd_get(x, at + i, dtype);
            squares += v * v;
        }
        const float rstd = 1.0f / sqrtf(squares / (float)dim + a->eps);
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) {
            kd_put(y, at + i, dtype, w[i] * (kd_get(x, at + i, dtype) * rstd));
        }
        a->rstd[row * a->n_heads + h] = rstd;
    }
    if (a->turn != NULL) {
        kd_rotary_row(a->turn, row, dtype);
    }
}

static void forward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const head_norm_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->x.dtype == KD_BF16) {
            forward_row(a, row, KD_BF16);
        } else {
            forward_row(a, row, KD_F32);
        }
    }
}

/* As norm_backward, for each head's part; dx is written, not added to. */
KD_INLINE void backward_row(const head_norm_args *a, int64_t row, float *dw, kd_dtype dtype)
{
    const void *x = kd_row(a->x, row), *dy = kd_row(a->dy, row);
    void *dx = kd_row(a->dx, row);
    const float *w = a->w;
    const int64_t dim = a->head_dim;
    if (a->turn != NULL) {
        kd_rotary_row(a->turn, row, dtype);
    }
    for (int64_t h = 0; h < a->n_heads; h++) {
        const int64_t at = h * dim;
        const float rstd = a->rstd[row * a->n_heads + h];
        float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < dim; i++) {
            const float g = kd_get(dy, at + i, dtype) * (kd_get(x, at + i, dtype) * rstd);
            dw[i] += g;
            dot += g * w[i];
        }
        const float mean = dot / (float)dim;
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) {
            const float xh = kd_get(x, at + i, dtype) * rstd;
            const float g = w[i] * kd_get(dy, at + i, dtype);
            kd_put(dx, at + i, dtype, rstd * (g - xh * mean));
        }
    }
}

static void backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const head_norm_args *a = args;
    float *dw = a->dw + lane * a->head_dim;
    memset(dw, 0, (size_t)a->head_dim * sizeof *dw);
    for (int64_t row = begin; row < end; row++) {
        if (a->x.dtype == KD_BF16) {
            backward_row(a, row, dw, KD_BF16);
        } else {
            backward_row(a, row, dw, KD_F32);
        }
    }
}

static head_norm_args args_of(kd_tensor x, kd_tensor w, kd_tensor rstd, int64_t n_heads)
{
    return (head_norm_args){.x = x,
                            .w = w.data,
                            .rstd = rstd.data,
                            .n_heads = n_heads,
                            .head_dim = kd_tensor_columns(x) / n_heads};
}

static void forward(kd_backend *be, const head_norm_args *a)
{
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(a->x), kd_grain(kd_tensor_columns(a->x)),
                               forward_rows, a);
    }
}

static void backward(kd_backend *be, head_norm_args *a, kd_tensor dw, bool accumulate)
{
    if (be->fault) {
        return;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    a->dw = kd_cpu_scratch(be, (size_t)be->n_threads * (size_t)a->head_dim * sizeof *a->dw);
    if (a->dw != NULL) {
        const int n_parts = kd_parallel_rows(be, kd_tensor_rows(a->x),
                                             kd_grain(kd_tensor_columns(a->x)), backward_rows, a);
        if (dw.data != NULL) {
            kd_sum_partials(dw.data, a->dw, n_parts, a->head_dim, accumulate);
        }
    }
    kd_cpu_scratch_rewind(be, mark);
}

void KD_KERNEL(head_norm)(kd_backend *be,
                          kd_tensor y,
                          kd_tensor x,
                          kd_tensor w,
                          kd_tensor rstd,
                          int64_t n_heads,
                          float eps)
{
    kd_check_head_norm(y, x, w, rstd, n_heads);
    head_norm_args a = args_of(x, w, rstd, n_heads);
    a.y = y;
    a.eps = eps;
    forward(be, &a);
}

void KD_KERNEL(head_norm_rotate)(kd_backend *be,
                                 kd_tensor y,
                                 kd_tensor x,
                                 kd_tensor w,
                                 kd_tensor rstd,
                                 float eps,
                                 const kd_rotation *by)
{
    kd_check_head_norm_rotate(y, x, w, rstd, by);
    const kd_rotary turn = KD_KERNEL(rotary_of)(y, by, false);
    head_norm_args a = args_of(x, w, rstd, kd_norm_parts(x, w));
    a.y = y;
    a.eps = eps;
    a.turn = &turn;
    forward(be, &a);
}

void KD_KERNEL(head_norm_backward)(kd_backend *be,
                                   kd_tensor dx,
                                   kd_tensor dw,
                                   kd_tensor dy,
                                   kd_tensor x,
                                   kd_tensor w,
                                   kd_tensor rstd,
                                   int64_t n_heads,
                                   bool accumulate)
{
    kd_check_head_norm_backward(dx, dw, dy, x, w, rstd, n_heads);
    head_norm_args a = args_of(x, w, rstd, n_heads);
    a.dy = dy;
    a.dx = dx;
    backward(be, &a, dw, accumulate);
}

void KD_KERNEL(head_norm_rotate_backward)(kd_backend *be,
                                          kd_tensor dx,
                                          kd_tensor dw,
                                          kd_tensor dy,
                                          kd_tensor x,
                                          kd_tensor w,
                                          kd_tensor rstd,
                                          bool accumulate,
                                          const kd_rotation *by)
{
    kd_check_head_norm_rotate_backward(dx, dw, dy, x, w, rstd, by);
    const kd_rotary turn = KD_KERNEL(rotary_of)(dy, by, true);
    head_norm_args a = args_of(x, w, rstd, kd_norm_parts(x, w));
    a.dy = dy;
    a.dx = dx;
    a.turn = &turn;
    backward(be, &a, dw, accumulate);
}
