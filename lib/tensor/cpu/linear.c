/*
 * linear.c - three products of one matrix. Operands of a product have one dtype, so a gradient that comes
 * in f32 from the residual stream is cast first, into scratch that the product gives back.
 */
#include "tensor/cpu/cpu.h"

/* A gradient may come in f32 from the residual stream; products take compute operands. */
static kd_tensor as_compute(kd_backend *be, kd_tensor t)
{
    if (t.dtype == be->compute || be->fault) {
        return t;
    }
    const int64_t rows = kd_tensor_rows(t), columns = kd_tensor_columns(t);
    void *memory = kd_cpu_scratch(be, (size_t)rows * (size_t)columns * kd_dtype_bytes(be->compute));
    if (memory == NULL) {
        return t;
    }
    const kd_tensor staged = kd_tensor_2d(memory, be->compute, rows, columns);
    if (!((const kd_cpu *)be)->prepares) {
        KD_KERNEL(copy)(be, staged, t);
    }
    return staged;
}

void KD_KERNEL(linear)(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w)
{
    kd_cpu_product(be, &(kd_product){.c = y, .a = x, .b = w, .trans_b = true});
}

void KD_KERNEL(linear_backward_x)(kd_backend *be, kd_tensor dx, kd_tensor dy, kd_tensor w)
{
    const size_t mark = kd_cpu_scratch_mark(be);
    kd_cpu_product(be, &(kd_product){.c = dx, .a = as_compute(be, dy), .b = w});
    kd_cpu_scratch_rewind(be, mark);
}

void KD_KERNEL(
    linear_backward_w)(kd_backend *be, kd_tensor dw, kd_tensor dy, kd_tensor x, bool accumulate)
{
    if (kd_tensor_rows(dy) == 0) { /* a product that does nothing */
        if (!accumulate) {
            KD_KERNEL(zero)(be, dw);
        }
        return;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    const kd_tensor a = as_compute(be, dy);
    kd_cpu_product(
        be, &(kd_product){.c = dw, .a = a, .b = x, .trans_a = true, .accumulate = accumulate});
    kd_cpu_scratch_rewind(be, mark);
}
