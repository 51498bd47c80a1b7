/*
 * norm_rows.h - RMSNorm over parts of rows, and its backward pass over those and over whole rows: what norm.cu,
 * head_norm.cu and head_norm_rotate.cu share.
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

/* Part p is columns [p % per_row * columns, + columns) of row p / per_row; parts are below 2^31. */
struct kd_part {
    unsigned row;
    int64_t column;
};

KD_FN kd_part kd_part_of(int64_t part, kd_divisor per_row, int64_t columns)
{
    const unsigned row = kd_divide((unsigned)part, per_row);
    return {row, kd_remainder((unsigned)part, row, per_row) * columns};
}

/* The sum of squares of this thread's columns of a part. */
template <int V, class T> KD_FN float kd_part_squares(const T *x, int64_t columns, bool aligned)
{
    float squares = 0.0f, v[V];

    for (int64_t at = threadIdx.x * V; at < columns; at += blockDim.x * V) {
        kd_read(v, x + at, kd_piece_of<V>(columns - at, aligned));
#pragma unroll
        for (int i = 0; i < V; i++) {
            squares += v[i] * v[i];
        }
    }
    return squares;
}

KD_FN float kd_rstd(float squares, int64_t columns, float eps)
{
    return 1.0f / sqrtf(squares / (float)columns + eps);
}

/* How a kernel reads a part's dy, columns [at, at + V) of it: as it is. */
struct kd_dy_as_it_is {
    KD_MEMBER kd_dy_as_it_is of_row(unsigned) const
    {
        return *this;
    }

    template <int V, class DY>
    KD_MEMBER void read(float (&d)[V], const DY *dy, int64_t at, kd_piece piece) const
    {
        kd_read(d, dy + at, piece);
    }
};

template <class DX, class DY, class X> struct kd_norm_backward {
    DX *dx;
    const DY *dy;
    const X *x;
    int64_t dx_stride, dy_stride, x_stride;
    const float *w;    /* (columns)        */
    const float *rstd; /* (n_parts)        */
    float *shares;     /* (groups, columns) of dw, or none */
    int64_t share_stride;
    int64_t n_parts, columns;
    kd_divisor per_row;
    int parts_per_group;
    bool in_shared; /* shares are summed in shared memory */
    bool aligned;
};

/* The sum of g * xh over this thread's columns of a part; adds dy * xh to its columns of `share`. */
template <int V, class READ, class DY, class X>
KD_FN float kd_norm_dot(const READ &reader,
                        const DY *dy,
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
        reader.read(d, dy, at, piece);
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
template <bool ADDS, int V, class READ, class DX, class DY, class X>
KD_FN void kd_norm_dx(const READ &reader,
                      DX *dx,
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
        reader.read(d, dy, at, piece);
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

template <bool ADDS, class READ, class DX, class DY, class X>
static __global__ void __launch_bounds__(KD_GROUP_THREADS_MAX)
    kd_norm_backward_parts(kd_norm_backward<DX, DY, X> a, READ dy_of)
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
        const kd_part at = kd_part_of(is_there ? part : 0, a.per_row, a.columns);
        const DY *dy = a.dy + at.row * a.dy_stride + at.column;
        const X *x = a.x + at.row * a.x_stride + at.column;
        const READ reader = dy_of.of_row(at.row);
        const int64_t columns = is_there ? a.columns : 0; /* the sum wants all threads */
        const float rstd = is_there ? a.rstd[part] : 0.0f;
        const float dot = kd_norm_dot<V>(reader, dy, x, a.w, rstd, share, columns, a.aligned);
        const float mean = kd_group_sum(dot) / (float)a.columns;
        kd_norm_dx<ADDS, V>(reader, a.dx + at.row * a.dx_stride + at.column, dy, x, a.w, rstd, mean,
                            columns, a.aligned);
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

    KD_CHECK(n_parts <= INT32_MAX);
    *parts_per_group_out =
        parts > KD_NORM_PARTS_MIN ? static_cast<int>(parts) : static_cast<int>(KD_NORM_PARTS_MIN);
    return kd_cuda_blocks(n_parts, static_cast<int64_t>(*parts_per_group_out) * groups_per_block);
}

/* dx, dy, x (N, heads * D); w (D); rstd (N * heads); dw (D) or none. dy is read by `reader`, which may move
 * pieces at once if reader_fits. */
template <bool ADDS, class DX, class DY, class X, class READ = kd_dy_as_it_is>
void kd_cuda_norm_backward_of(kd_backend *be,
                              const char *what,
                              kd_tensor dx,
                              kd_tensor dw,
                              kd_tensor dy,
                              kd_tensor x,
                              kd_tensor w,
                              kd_tensor rstd,
                              int64_t n_heads,
                              bool accumulate,
                              READ reader = {},
                              bool reader_fits = true)
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
                                           columns,
                                           kd_divisor_of(n_heads),
                                           parts_per_group,
                                           in_shared,
                                           (n_heads == 1 || columns % V == 0) && reader_fits &&
                                               kd_cuda_fits(dx, V) && kd_cuda_fits(dy, V) &&
                                               kd_cuda_fits(x, V) && kd_cuda_fits(w, V)};
    kd_cuda_launch(be, what, kd_norm_backward_parts<ADDS, READ, DX, DY, X>, dim3(n_blocks), block,
                   in_shared ? shared_bytes : 0, a, reader);
    if (dw.data != nullptr && be->fault == KD_OK) {
        kd_cuda_sum_columns(be, dw, kd_tensor_slice_columns(shares, 0, columns), accumulate);
    }
    kd_cuda_scratch_rewind(be, mark);
}

#endif
