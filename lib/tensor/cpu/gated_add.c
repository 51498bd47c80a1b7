/*
 * gated_add.c - a shared expert behind its gate: y += sigmoid(gate) x, the sigmoid formed again in the
 * backward pass rather than kept.
 */
#include "tensor/cpu/cpu.h"

typedef struct gated_args {
    kd_tensor y, x, dx; /* y: the sum, or its gradient */
    kd_tensor gate, d_gate;
    int64_t columns;
} gated_args;

KD_INLINE void
forward_row(void *y, kd_dtype y_dtype, const void *x, kd_dtype dtype, float share, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        kd_put(y, i, y_dtype, kd_get(y, i, y_dtype) + share * kd_get(x, i, dtype));
    }
}

static void forward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const gated_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const float share = kd_sigmoid(*(const float *)kd_row(a->gate, row));
        void *y = kd_row(a->y, row);
        const void *x = kd_row(a->x, row);
        if (a->y.dtype == KD_BF16) {
            forward_row(y, KD_BF16, x, KD_BF16, share, a->columns);
        } else if (a->x.dtype == KD_BF16) {
            forward_row(y, KD_F32, x, KD_BF16, share, a->columns);
        } else {
            forward_row(y, KD_F32, x, KD_F32, share, a->columns);
        }
    }
}

KD_INLINE float
backward_row(void *dx, const float *dy, const void *x, kd_dtype dtype, float share, int64_t n)
{
    return kd_scale_row(dx, dy, x, dtype, share, n) * share * (1.0f - share);
}

static void backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const gated_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const float share = kd_sigmoid(*(const float *)kd_row(a->gate, row));
        const float *dy = kd_row(a->y, row);
        const void *x = kd_row(a->x, row);
        void *dx = kd_row(a->dx, row);
        *(float *)kd_row(a->d_gate, row) = a->x.dtype == KD_BF16
                                               ? backward_row(dx, dy, x, KD_BF16, share, a->columns)
                                               : backward_row(dx, dy, x, KD_F32, share, a->columns);
    }
}

void KD_KERNEL(gated_add)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate)
{
    const gated_args a = {.y = y, .x = x, .gate = gate, .columns = kd_tensor_columns(y)};
    kd_check_gated_add(be, y, x, gate);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(y), kd_grain(a.columns), forward_rows, &a);
    }
}

void KD_KERNEL(gated_add_backward)(kd_backend *be,
                                   kd_tensor dx,
                                   kd_tensor d_gate,
                                   kd_tensor dy,
                                   kd_tensor x,
                                   kd_tensor gate)
{
    const gated_args a = {.y = dy,
                          .x = x,
                          .dx = dx,
                          .gate = gate,
                          .d_gate = d_gate,
                          .columns = kd_tensor_columns(dy)};
    kd_check_gated_add_backward(dx, d_gate, dy, x, gate);
    if (!be->fault) {
        (void)kd_parallel_rows(be, kd_tensor_rows(dy), kd_grain(a.columns), backward_rows, &a);
    }
}
