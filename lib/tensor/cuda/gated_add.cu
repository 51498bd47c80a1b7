/*
 * gated_add.cu - a shared expert behind its gate: y += sigmoid(gate) x, the sigmoid formed again in
 * the backward pass rather than kept.
 */
#include "tensor/cuda/row.h"

/*
 * A warp a row: y (N, C) f32 or compute, x (N, C) compute, gate (N, 1) f32. Rounds y once.
 * Bytes: y twice, x once.
 */
template <class Y, class X, int W>
static __global__ void __launch_bounds__(KD_ROW_THREADS) add_gated(Y *__restrict__ y_rows,
                                                                   int64_t y_stride,
                                                                   const X *__restrict__ x_rows,
                                                                   int64_t x_stride,
                                                                   const float *__restrict__ gate,
                                                                   int64_t gate_stride,
                                                                   int64_t n_rows,
                                                                   int64_t n_columns)
{
    const int64_t row = kd_row_number();

    if (row >= n_rows) {
        return;
    }
    const float share = kd_sigmoid(gate[row * gate_stride]);
    Y *y = y_rows + row * y_stride;
    const X *x = x_rows + row * x_stride;
#pragma unroll 4
    for (int64_t c = kd_row_first<W>(); c < n_columns; c += 32 * W) {
        float sum[W], v[W];
        kd_load_vector(sum, y + c);
        kd_load_vector(v, x + c);
#pragma unroll
        for (int i = 0; i < W; i++) {
            sum[i] += share * v[i];
        }
        kd_store_vector(y + c, sum);
    }
}

/*
 * A warp a row, with s = sigmoid(gate): dx = s dy, d_gate = s (1 - s) sum over C of dy x.
 * dx, x (N, C) compute, dy (N, C) f32, gate, d_gate (N, 1) f32. Bytes: dy, x and dx once.
 */
template <class T, int W>
static __global__ void __launch_bounds__(KD_ROW_THREADS)
    add_gated_backward(T *__restrict__ dx,
                       int64_t dx_stride,
                       float *__restrict__ d_gate,
                       int64_t d_gate_stride,
                       const float *__restrict__ dy,
                       int64_t dy_stride,
                       const T *__restrict__ x,
                       int64_t x_stride,
                       const float *__restrict__ gate,
                       int64_t gate_stride,
                       int64_t n_rows,
                       int64_t n_columns)
{
    const int64_t row = kd_row_number();

    if (row >= n_rows) {
        return;
    }
    const float share = kd_sigmoid(gate[row * gate_stride]);
    const float dot = kd_row_scale<W>(dx + row * dx_stride, dy + row * dy_stride,
                                      x + row * x_stride, share, n_columns);
    if (threadIdx.x % 32 == 0) {
        d_gate[row * d_gate_stride] = dot * share * (1.0f - share);
    }
}

template <class Y, class X>
static void launch_forward(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate)
{
    kd_row_with_width(kd_row_is_wide(y, x), [&](auto width) {
        kd_row_launch(be, "gated_add", add_gated<Y, X, decltype(width)::value>, kd_tensor_rows(y),
                      kd_cuda_data<Y>(y), y.row_stride, kd_cuda_data<X>(x), x.row_stride,
                      kd_cuda_data<float>(gate), gate.row_stride, kd_tensor_rows(y),
                      kd_tensor_columns(y));
    });
}

void kd_cuda_gated_add(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor gate)
{
    kd_check_gated_add(be, y, x, gate);
    kd_cuda_with_type(x.dtype, [&](auto narrow) {
        using X = decltype(narrow);
        if (y.dtype == KD_F32) {
            launch_forward<float, X>(be, y, x, gate);
        } else {
            launch_forward<X, X>(be, y, x, gate);
        }
    });
}

void kd_cuda_gated_add_backward(kd_backend *be,
                                kd_tensor dx,
                                kd_tensor d_gate,
                                kd_tensor dy,
                                kd_tensor x,
                                kd_tensor gate)
{
    kd_check_gated_add_backward(dx, d_gate, dy, x, gate);
    kd_cuda_with_type(x.dtype, [&](auto element) {
        using T = decltype(element);
        kd_row_with_width(kd_row_is_wide(dx, dy, x), [&](auto width) {
            kd_row_launch(be, "gated_add_backward", add_gated_backward<T, decltype(width)::value>,
                          kd_tensor_rows(dy), kd_cuda_data<T>(dx), dx.row_stride,
                          kd_cuda_data<float>(d_gate), d_gate.row_stride, kd_cuda_data<float>(dy),
                          dy.row_stride, kd_cuda_data<T>(x), x.row_stride,
                          kd_cuda_data<float>(gate), gate.row_stride, kd_tensor_rows(dy),
                          kd_tensor_columns(dy));
        });
    });
}
