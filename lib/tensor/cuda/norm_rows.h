/*
 * norm_rows.h - the backward pass of RMSNorm over rows or over parts of rows, for norm.cu and head_norm.cu.
 *
 * With xh = x * rstd and g = w * dy:  dx = rstd * (g - xh * mean(g * xh)),  dw = sum of dy * xh over rows.
 *
 * A group of threads takes one part after the other, so that its own share of dw stays on the chip, or in a
 * row of its own where it is too long; each thread has its own columns of that. The shares are then summed by
 * a fixed tree.
 */
#ifndef KD_TENSOR_CUDA_NORM_ROWS_H
#define KD_TENSOR_CUDA_NORM_ROWS_H

#include "tensor/cuda/columns.h"
#include "tensor/cuda/pieces.h"

/* Parts that a group takes at least, for a share of dw costs as much as one; and blocks at most. */
enum { KD_NORM_PARTS_MIN = 8, KD_NORM_BLOCKS_MAX = 512, KD_NORM_SHARED_MAX = 48 << 10 };

/* Part p is columns [p % n_heads * columns, + columns) of row p / n_heads. */
template <class DX, class DY, class X> struct kd_norm_backward {
    DX *dx;
    const DY *dy;
    const X *x;
    int64_t dx_stride, dy_stride, x_stride;
    const float *w;    /* (columns)        */
    const float *rstd; /* (n_parts)        */
    float *shares;     /* (groups, columns) of dw, or none */
    int64_t share_stride;
    int64_t n_parts, n_heads, columns;
    int parts_per_group;
    bool in_shared; /* shares are summed in shared memory */
    bool aligned;
};

/* The sum of g * xh over this thread's columns of a part; adds dy * xh to its columns of `share`. */
template <int V, class DY, class X>
KD_FN float kd_norm_dot(const DY *dy,
                        const X *x,
                        const float *w,
                        float rstd,
                        float *share,
                        int64_t columns,
                        bool aligned)
{
    float dot = 0.0f, d[V], v[V], scale[V], sum[V];

    for (int64_t at = threadIdx.x * V; at < columns; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(columns - at, aligned);
        kd_read(d, dy + at, piece);
        kd_read(v, x + at, piece);
        kd_read(scale, w + at, piece);
#pragma unroll
        for (int i = 0; i < V; i++) {
            d[i] *= v[i] * rstd;
            dot += d[i] * scale[i];
        }
        if (share != nullptr) {
            kd_read(sum, share + at, piece);
#pragma unroll
            for (int i = 0; i < V; i++) {
                sum[i] += d[i];
            }
            kd_write(share + at, sum, piece);
        }
    }
    return dot;
}

/* dx of this thread's columns of a part: added in the residual stream (ADDS), written elsewhere. */
template <bool ADDS, int V, class DX, class DY, class X>
KD_FN void kd_norm_dx(DX *dx,
                      const DY *dy,
                      const X *x,
                      const float *w,
                      float rstd,
                      float mean,
                      int64_t columns,
                      bool aligned)
{
    float d[V], v[V], scale[V], sum[V] = {};

    for (int64_t at = threadIdx.x * V; at < columns; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(columns - at, aligned);
        kd_read(d, dy + at, piece);
        kd_read(v, x + at, piece);
        kd_read(scale, w + at, piece);
        if (ADDS) {
            kd_read(sum, dx + at, piece);
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            const float g = rstd * (scale[i] * d[i] - v[i] * rstd * mean);
            sum[i] = ADDS ? sum[i] + g : g;
        }
        kd_write(dx + at, sum, piece);
    }
}

template <bool ADDS, class DX, class DY, class X>
static __global__ void __launch_bounds__(KD_GROUP_THREADS_MAX)
    kd_norm_backward_parts(kd_norm_backward<DX, DY, X> a)
{
    constexpr int V = KD_PIECE<DX, DY, X>;
    KD_DYN_SHARED(float, shared, 16);
    const int64_t group = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const int64_t first = (int64_t)blockIdx.x * a.parts_per_group * blockDim.y + threadIdx.y;
    const bool has_share = a.shares != nullptr;
    float *kept = has_share ? a.shares + group * a.share_stride : nullptr;
    float *share = has_share && a.in_shared ? shared + threadIdx.y * a.share_stride : kept;
    const float zeros[V] = {};
    float v[V];

    for (int64_t at = threadIdx.x * V; has_share && at < a.columns; at += blockDim.x * V) {
        kd_write(share + at, zeros, kd_piece_of<V>(a.columns - at, a.aligned));
    }
    for (int i = 0; i < a.parts_per_group; i++) {
        const int64_t part = first + (int64_t)i * blockDim.y;
        const bool is_there = part < a.n_parts;
        const int64_t row = is_there ? part / a.n_heads : 0;
        const int64_t column = is_there ? part % a.n_heads * a.columns : 0;
        const DY *dy = a.dy + row * a.dy_stride + column;
        const X *x = a.x + row * a.x_stride + column;
        const int64_t columns = is_there ? a.columns : 0; /* the sum wants all threads */
        const float rstd = is_there ? a.rstd[part] : 0.0f;
        const float dot = kd_norm_dot<V>(dy, x, a.w, rstd, share, columns, a.aligned);
        const float mean = kd_group_sum(dot) / (float)a.columns;
        kd_norm_dx<ADDS, V>(a.dx + row * a.dx_stride + column, dy, x, a.w, rstd, mean, columns,
                            a.aligned);
    }
    for (int64_t at = threadIdx.x * V; kept != share && at < a.columns; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(a.columns - at, a.aligned);
        kd_read(v, share + at, piece);
        kd_write(kept + at, v, piece);
    }
}

/* The blocks that n_parts need, and how many parts each of their groups takes. */
static inline unsigned
kd_norm_blocks(int64_t n_parts, unsigned groups_per_block, int *parts_per_group_out)
{
    const int64_t most = static_cast<int64_t>(KD_NORM_BLOCKS_MAX) * groups_per_block;
    const int64_t parts = (n_parts + most - 1) / most;

    KD_CHECK(parts <= INT32_MAX);
    *parts_per_group_out =
        parts > KD_NORM_PARTS_MIN ? static_cast<int>(parts) : static_cast<int>(KD_NORM_PARTS_MIN);
    return kd_cuda_blocks(n_parts, static_cast<int64_t>(*parts_per_group_out) * groups_per_block);
}

/* dx, dy, x (N, heads * D); w (D); rstd (N * heads); dw (D) or none. */
template <bool ADDS, class DX, class DY, class X>
void kd_cuda_norm_backward_of(kd_backend *be,
                              const char *what,
                              kd_tensor dx,
                              kd_tensor dw,
                              kd_tensor dy,
                              kd_tensor x,
                              kd_tensor w,
                              kd_tensor rstd,
                              int64_t n_heads,
                              bool accumulate)
{
    constexpr int V = KD_PIECE<DX, DY, X>;
    const size_t mark = kd_cuda_scratch_mark(be);
    const int64_t columns = kd_tensor_columns(x) / n_heads;
    const int64_t n_parts = kd_tensor_rows(x) * n_heads;
    const int64_t share_stride = (columns + V - 1) / V * V;
    const dim3 block = kd_cuda_groups_of(columns, V);
    const size_t shared_bytes = sizeof(float) * static_cast<size_t>(share_stride) * block.y;
    const bool in_shared = dw.data != nullptr && shared_bytes <= KD_NORM_SHARED_MAX;
    int parts_per_group = 0;
    const unsigned n_blocks = kd_norm_blocks(n_parts, block.y, &parts_per_group);
    kd_tensor shares = kd_tensor_none();

    if (dw.data != nullptr) {
        shares =
            kd_cuda_scratch_2d(be, KD_F32, static_cast<int64_t>(n_blocks) * block.y, share_stride);
    }
    const kd_norm_backward<DX, DY, X> a = {kd_cuda_data<DX>(dx),
                                           kd_cuda_data<DY>(dy),
                                           kd_cuda_data<X>(x),
                                           dx.row_stride,
                                           dy.row_stride,
                                           x.row_stride,
                                           kd_cuda_data<float>(w),
                                           kd_cuda_data<float>(rstd),
                                           kd_cuda_data<float>(shares),
                                           share_stride,
                                           n_parts,
                                           n_heads,
                                           columns,
                                           parts_per_group,
                                           in_shared,
                                           (n_heads == 1 || columns % V == 0) &&
                                               kd_cuda_fits(dx, V) && kd_cuda_fits(dy, V) &&
                                               kd_cuda_fits(x, V) && kd_cuda_fits(w, V)};
    kd_cuda_launch(be, what, kd_norm_backward_parts<ADDS, DX, DY, X>, dim3(n_blocks), block,
                   in_shared ? shared_bytes : 0, a);
    if (dw.data != nullptr && be->fault == KD_OK) {
        kd_cuda_sum_columns(be, dw, kd_tensor_slice_columns(shares, 0, columns), accumulate);
    }
    kd_cuda_scratch_rewind(be, mark);
}

#endif
