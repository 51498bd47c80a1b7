/*
 * swiglu.cu - gate and up come from one product, side by side, and their gradients go back so. The sigmoid is
 * formed again in the backward pass, which costs less than keeping it.
 */
#include "tensor/cuda/pieces.h"

/* h (N, F) = silu(gu[:, :F]) * gu[:, F:]. Moves gu and h once. */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    swiglu_pieces(kd_pieces s, T *h, int64_t h_stride, const T *gu, int64_t gu_stride)
{
    constexpr int V = KD_PIECE<T>;
    const kd_place at = kd_place_of<V>(s);
    const T *from = gu + at.row * gu_stride + at.column;
    float gate[V], up[V];

    if (at.piece.n <= 0) {
        return;
    }
    kd_read(gate, from, at.piece);
    kd_read(up, from + s.columns, at.piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        up[i] *= gate[i] * kd_sigmoid(gate[i]);
    }
    kd_write(h + at.row * h_stride + at.column, up, at.piece);
}

/* dgu (N, 2 F), with silu(g)' = s (1 + g (1 - s)), s = sigmoid(g). Moves gu, dh and dgu once. */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    swiglu_backward_pieces(kd_pieces s,
                           T *dgu,
                           int64_t dgu_stride,
                           const T *dh,
                           int64_t dh_stride,
                           const T *gu,
                           int64_t gu_stride)
{
    constexpr int V = KD_PIECE<T>;
    const kd_place at = kd_place_of<V>(s);
    const T *from = gu + at.row * gu_stride + at.column;
    T *to = dgu + at.row * dgu_stride + at.column;
    float gate[V], up[V], d[V];

    if (at.piece.n <= 0) {
        return;
    }
    kd_read(gate, from, at.piece);
    kd_read(up, from + s.columns, at.piece);
    kd_read(d, dh + at.row * dh_stride + at.column, at.piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float g = gate[i], share = kd_sigmoid(g);
        gate[i] = d[i] * up[i] * share * (1.0f + g * (1.0f - share));
        up[i] = d[i] * g * share;
    }
    kd_write(to, gate, at.piece);
    kd_write(to + s.columns, up, at.piece);
}

/* Whether the second half of a row may be moved as the first is. */
static bool halves_fit(kd_tensor gu, int width)
{
    return kd_cuda_fits(gu, width) && kd_tensor_columns(gu) / 2 % width == 0;
}

void kd_cuda_swiglu(kd_backend *be, kd_tensor h, kd_tensor gu)
{
    kd_check_swiglu(h, gu);
    kd_cuda_with_type(h.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T>;
        kd_cuda_launch_pieces(be, "swiglu", swiglu_pieces<T>, kd_tensor_rows(h),
                              kd_tensor_columns(h), V, kd_cuda_fits(h, V) && halves_fit(gu, V),
                              kd_cuda_data<T>(h), h.row_stride, kd_cuda_data<T>(gu), gu.row_stride);
    });
}

void kd_cuda_swiglu_backward(kd_backend *be, kd_tensor dgu, kd_tensor dh, kd_tensor gu)
{
    kd_check_swiglu_backward(dgu, dh, gu);
    kd_cuda_with_type(dh.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T>;
        kd_cuda_launch_pieces(be, "swiglu_backward", swiglu_backward_pieces<T>, kd_tensor_rows(dh),
                              kd_tensor_columns(dh), V,
                              kd_cuda_fits(dh, V) && halves_fit(gu, V) && halves_fit(dgu, V),
                              kd_cuda_data<T>(dgu), dgu.row_stride, kd_cuda_data<T>(dh),
                              dh.row_stride, kd_cuda_data<T>(gu), gu.row_stride);
    });
}
