/*
 * operand.h - tensors as tile.h takes them, for the functions that launch kernels.
 */
#ifndef KD_TENSOR_CUDA_OPERAND_H
#define KD_TENSOR_CUDA_OPERAND_H

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/tile.h"

/* All rows of a tensor of that type. */
template <class T> kd_matrix<T> kd_cuda_matrix(kd_tensor t)
{
    const T *data = kd_cuda_data<const T>(t);
    return {data, kd_tensor_rows(t), kd_tensor_columns(t), t.row_stride,
            kd_rows_are_aligned(data, t.row_stride)};
}

template <class T> kd_result<T> kd_cuda_result(kd_tensor t, bool accumulate)
{
    T *data = kd_cuda_data<T>(t);
    const bool pairs =
        t.row_stride % 2 == 0 && reinterpret_cast<uintptr_t>(data) % (2 * sizeof(T)) == 0;
    return {data, kd_tensor_rows(t), kd_tensor_columns(t), t.row_stride, pairs, accumulate};
}

/* Calls f(T{}, Out{}) for the dtypes of a product's operands and of its result, which is f32 or that. */
template <class F> void kd_cuda_with_types(kd_dtype operands, kd_dtype result, F f)
{
    kd_cuda_with_type(operands, [&](auto t) {
        using T = decltype(t);
        if (result == operands) {
            f(T{}, T{});
        } else {
            KD_CHECK(result == KD_F32);
            f(T{}, float{});
        }
    });
}

#endif
