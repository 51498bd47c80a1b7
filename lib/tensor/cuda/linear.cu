/*
 * linear.cu - three products of one matrix. Operands of a product have one dtype, so a gradient that comes in
 * f32 from the residual stream is cast first.
 */
#include "tensor/cuda/matmul.h"

kd_tensor kd_cuda_as_compute(kd_backend *be, kd_tensor t)
{
    if (t.dtype == be->compute || be->fault != KD_OK) {
        return t;
    }
    const kd_tensor staged =
        kd_cuda_scratch_2d(be, be->compute, kd_tensor_rows(t), kd_tensor_columns(t));
    if (be->fault == KD_OK) {
        kd_cuda_copy(be, staged, t);
    }
    return staged;
}

void kd_cuda_linear(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w)
{
    const kd_product product = {y, x, w, false, true, false};
    kd_cuda_product(be, &product);
}

void kd_cuda_linear_backward_x(kd_backend *be, kd_tensor dx, kd_tensor dy, kd_tensor w)
{
    const size_t mark = kd_cuda_scratch_mark(be);
    const kd_product product = {dx, kd_cuda_as_compute(be, dy), w, false, false, false};
    kd_cuda_product(be, &product);
    kd_cuda_scratch_rewind(be, mark);
}

void kd_cuda_linear_backward_w(kd_backend *be,
                               kd_tensor dw,
                               kd_tensor dy,
                               kd_tensor x,
                               bool accumulate)
{
    const size_t mark = kd_cuda_scratch_mark(be);
    const kd_product product = {dw, kd_cuda_as_compute(be, dy), x, true, false, accumulate};
    kd_cuda_product(be, &product);
    kd_cuda_scratch_rewind(be, mark);
}
