/*
 * norm.cu - RMSNorm of the residual stream, with the delta of the block before added on the way: the stream
 * crosses memory once instead of twice.
 */
#include "tensor/cuda/norm_rows.h"

template <class Y, class D> struct norm_args {
    Y *y;
    float *sum;
    const float *x;
    const D *delta; /* none: x itself is normalised */
    const float *w;
    float *rstd; /* or none */
    int64_t y_stride, sum_stride, x_stride, delta_stride;
    int64_t rows, columns;
    float eps;
    bool aligned;
};

/* The sum of squares of this thread's columns of x + delta, which is written to sum, or of x. */
template <int V, class Y, class D> KD_FN float squares_of(const norm_args<Y, D> &a, int64_t row)
{
    float squares = 0.0f, v[V], d[V];

    for (int64_t at = threadIdx.x * V; at < a.columns; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(a.columns - at, a.aligned);
        kd_read(v, a.x + row * a.x_stride + at, piece);
        if (a.delta != nullptr) {
            kd_read(d, a.delta + row * a.delta_stride + at, piece);
#pragma unroll
            for (int i = 0; i < V; i++) {
                v[i] += d[i];
            }
            kd_write(a.sum + row * a.sum_stride + at, v, piece);
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            squares += v[i] * v[i];
        }
    }
    return squares;
}

/*
 * y = w * s * rstd with s = x + delta and rstd = 1 / sqrt(mean(s^2) + eps), a group of threads for each of
 * `rows` rows. Each thread reads its own columns again for y, from the cache. Moves x, delta, sum and y once.
 */
template <class Y, class D>
static __global__ void __launch_bounds__(KD_GROUP_THREADS_MAX) norm_rows(norm_args<Y, D> a)
{
    constexpr int V = KD_PIECE<Y, D, float>;
    const int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const bool is_there = row < a.rows; /* the sum wants all threads */
    const float squares = kd_group_sum(is_there ? squares_of<V>(a, row) : 0.0f);
    const float rstd = 1.0f / sqrtf(squares / (float)a.columns + a.eps);
    float v[V], w[V];

    if (!is_there) {
        return;
    }
    const float *s = a.delta != nullptr ? a.sum + row * a.sum_stride : a.x + row * a.x_stride;
    for (int64_t at = threadIdx.x * V; at < a.columns; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(a.columns - at, a.aligned);
        kd_read(v, s + at, piece);
        kd_read(w, a.w + at, piece);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = w[i] * (v[i] * rstd);
        }
        kd_write(a.y + row * a.y_stride + at, v, piece);
    }
    if (a.rstd != nullptr && threadIdx.x == 0) {
        a.rstd[row] = rstd;
    }
}

template <class Y, class D>
static void launch(kd_backend *be,
                   kd_tensor y,
                   kd_tensor sum,
                   kd_tensor x,
                   kd_tensor delta,
                   kd_tensor w,
                   kd_tensor rstd,
                   float eps)
{
    constexpr int V = KD_PIECE<Y, D, float>;
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);
    const dim3 block = kd_cuda_groups_of(columns, V);
    const norm_args<Y, D> a = {
        kd_cuda_data<Y>(y),
        kd_cuda_data<float>(sum),
        kd_cuda_data<float>(x),
        kd_cuda_data<D>(delta),
        kd_cuda_data<float>(w),
        kd_cuda_data<float>(rstd),
        y.row_stride,
        sum.row_stride,
        x.row_stride,
        delta.row_stride,
        rows,
        columns,
        eps,
        kd_cuda_fits(y, V) && kd_cuda_fits(x, V) && kd_cuda_fits(w, V) &&
            (delta.data == nullptr || (kd_cuda_fits(delta, V) && kd_cuda_fits(sum, V)))};

    kd_cuda_launch(be, "norm", norm_rows<Y, D>, dim3(kd_cuda_blocks(rows, block.y)), block, 0, a);
}

void kd_cuda_norm(kd_backend *be,
                  kd_tensor y,
                  kd_tensor sum,
                  kd_tensor x,
                  kd_tensor delta,
                  kd_tensor w,
                  kd_tensor rstd,
                  float eps)
{
    kd_check_norm(be, y, sum, x, delta, w, rstd);
    kd_cuda_with_type(y.dtype, [&](auto t) {
        kd_cuda_with_type(delta.data != nullptr ? delta.dtype : KD_F32, [&](auto d) {
            launch<decltype(t), decltype(d)>(be, y, sum, x, delta, w, rstd, eps);
        });
    });
}

/* Moves x and dy once, dx twice. */
void kd_cuda_norm_backward(kd_backend *be,
                           kd_tensor dx,
                           kd_tensor dw,
                           kd_tensor dy,
                           kd_tensor x,
                           kd_tensor w,
                           kd_tensor rstd,
                           bool accumulate)
{
    kd_check_norm_backward(dx, dw, dy, x, w, rstd);
    kd_cuda_with_type(dy.dtype, [&](auto t) {
        kd_cuda_norm_backward_of<true, float, decltype(t), float>(be, "norm_backward", dx, dw, dy,
                                                                  x, w, rstd, 1, accumulate);
    });
}
