/*
 * row.h - kernels whose every row belongs to a warp: several rows a block, so that short rows fill
 * it too.
 *
 * Rows are moved W elements a lane: KD_ROW_WIDE, in pieces of 16 bytes, where every row of every
 * tensor begins at such a piece, else one. Arithmetic is in f32.
 */
#ifndef KD_TENSOR_CUDA_ROW_H
#define KD_TENSOR_CUDA_ROW_H

#include <type_traits>

#include "tensor/cuda/cuda.h"

enum { KD_ROW_WARPS = 8, KD_ROW_THREADS = 32 * KD_ROW_WARPS, KD_ROW_WIDE = 8 };

/* The row of this warp; it may lie behind the last. */
KD_FN int64_t kd_row_number()
{
    return int64_t{blockIdx.x} * KD_ROW_WARPS + threadIdx.x / 32;
}

/* The first column of this lane; the next is 32 * W further. */
template <int W> KD_FN int64_t kd_row_first()
{
    return int64_t{threadIdx.x % 32} * W;
}

/* dx = weight * dy over a row; returns the sum of dy * x to every lane. */
template <int W, class T>
KD_FN float kd_row_scale(T *__restrict__ dx,
                         const float *__restrict__ dy,
                         const T *__restrict__ x,
                         float weight,
                         int64_t n_columns)
{
    float dot = 0.0f;
#pragma unroll 4
    for (int64_t c = kd_row_first<W>(); c < n_columns; c += 32 * W) {
        float d[W], v[W];
        kd_load_vector(d, dy + c);
        kd_load_vector(v, x + c);
#pragma unroll
        for (int i = 0; i < W; i++) {
            dot += d[i] * v[i];
            d[i] *= weight;
        }
        kd_store_vector(dx + c, d);
    }
    return kd_warp_sum(dot);
}

/* Whether all rows of all tensors, which have the same columns, may be moved KD_ROW_WIDE
 * elements at once. */
template <class... Tensors> bool kd_row_is_wide(kd_tensor t, Tensors... others)
{
    const bool fits = kd_cuda_fits(t, KD_ROW_WIDE) && kd_tensor_columns(t) % KD_ROW_WIDE == 0;
    if constexpr (sizeof...(others) == 0) {
        return fits;
    } else {
        return fits && kd_row_is_wide(others...);
    }
}

/* Calls f with that width as a constant. */
template <class F> void kd_row_with_width(bool is_wide, F f)
{
    if (is_wide) {
        f(std::integral_constant<int, KD_ROW_WIDE>{});
    } else {
        f(std::integral_constant<int, 1>{});
    }
}

/* One warp for each of n rows. */
template <class... P, class... A>
void kd_row_launch(kd_backend *be, const char *what, void (*kernel)(P...), int64_t n, A... args)
{
    kd_cuda_launch(be, what, kernel, kd_cuda_blocks(n, KD_ROW_WARPS), KD_ROW_THREADS, 0, args...);
}

#endif
