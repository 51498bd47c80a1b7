/*
 * swiglu.c - gate and up come from one product, side by side, and their gradients go back so: a row is
 * read once for both. The sigmoid is formed again in the backward pass, which costs less than keeping it.
 */
#include "tensor/cpu/cpu.h"

typedef struct swiglu_args {
    kd_tensor h;   /* (N, F): h, or its gradient */
    kd_tensor gu;  /* (N, 2 F) */
    kd_tensor dgu; /* (N, 2 F) */
    int64_t width; /* F */
} swiglu_args;

KD_INLINE void forward_row(const swiglu_args *a, int64_t row, kd_dtype dtype)
{
    const int64_t width = a->width;
    const void *gu = kd_row(a->gu, row);
    void *h = kd_row(a->h, row);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        const float gate = kd_get(gu, i, dtype), up = kd_get(gu, width + i, dtype);
        kd_put(h, i, dtype, gate * kd_sigmoid(gate) * up);
    }
}

static void forward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const swiglu_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->gu.dtype == KD_BF16) {
            forward_row(a, row, KD_BF16);
        } else {
            forward_row(a, row, KD_F32);
        }
    }
}

/* silu(g)' = s (1 + g (1 - s)) with s = sigmoid(g). */
KD_INLINE void backward_row(const swiglu_args *a, int64_t row, kd_dtype dtype)
{
    const int64_t width = a->width;
    const void *gu = kd_row(a->gu, row), *dh = kd_row(a->h, row);
    void *dgu = kd_row(a->dgu, row);
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
        const float gate = kd_get(gu, i, dtype), up = kd_get(gu, width + i, dtype);
        const float d = kd_get(dh, i, dtype), s = kd_sigmoid(gate);
        kd_put(dgu, i, dtype, d * up * s * (1.0f + gate * (1.0f - s)));
        kd_put(dgu, width + i, dtype, d * gate * s);
    }
}

static void backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const swiglu_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->gu.dtype == KD_BF16) {
            backward_row(a, row, KD_BF16);
        } else {
            backward_row(a, row, KD_F32);
        }
    }
}

void KD_KERNEL(swiglu)(kd_backend *be, kd_tensor h, kd_tensor gu)
{
    const swiglu_args a = {h, gu, gu, kd_tensor_columns(h)};
    kd_check_swiglu(h, gu);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(h), kd_grain(a.width), forward_rows, &a);
    }
}

void KD_KERNEL(swiglu_backward)(kd_backend *be, kd_tensor dgu, kd_tensor dh, kd_tensor gu)
{
    const swiglu_args a = {dh, gu, dgu, kd_tensor_columns(dh)};
    kd_check_swiglu_backward(dgu, dh, gu);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(dh), kd_grain(a.width), backward_rows, &a);
    }
}
