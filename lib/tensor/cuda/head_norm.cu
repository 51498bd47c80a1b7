/*
 * head_norm.cu - norm over parts of a row, each head's or all heads' together; a file of its own because
 * here dx is written and in the compute dtype, where norm.cu adds into the f32 residual stream.
 */
#include "tensor/cuda/norm_rows.h"

template <class T> struct head_norm_args {
    T *y;
    const T *x;
    const float *w; /* (D)        */
    float *rstd;    /* (N, heads) */
    int64_t y_stride, x_stride;
    int64_t n_parts, head_dim;
    kd_divisor n_heads;
    float eps;
    bool aligned;
};

/*
 * y = w * x * rstd with rstd = 1 / sqrt(mean(x^2) + eps) for each head's D columns of each row of x, y
 * (N, heads * D): a group of threads for each of these N * heads parts. Moves x and y once.
 */
template <class T>
static __global__ void __launch_bounds__(KD_GROUP_THREADS_MAX) head_norm_parts(head_norm_args<T> a)
{
    constexpr int V = KD_PIECE<T>;
    const int64_t part = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const bool is_there = part < a.n_parts; /* the sum wants all threads */
    const kd_part place = kd_part_of(is_there ? part : 0, a.n_heads, a.head_dim);
    const T *x = a.x + place.row * a.x_stride + place.column;
    T *y = a.y + place.row * a.y_stride + place.column;
    const float squares = is_there ? kd_part_squares<V>(x, a.head_dim, a.aligned) : 0.0f;
    const float rstd = kd_rstd(kd_group_sum(squares), a.head_dim, a.eps);
    float v[V], w[V];

    for (int64_t at = threadIdx.x * V; is_there && at < a.head_dim; at += blockDim.x * V) {
        const kd_piece piece = kd_piece_of<V>(a.head_dim - at, a.aligned);
        kd_read(v, x + at, piece);
        kd_read(w, a.w + at, piece);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = w[i] * (v[i] * rstd);
        }
        kd_write(y + at, v, piece);
    }
    if (is_there && threadIdx.x == 0) {
        a.rstd[part] = rstd;
    }
}

template <class T>
static void launch(kd_backend *be,
                   kd_tensor y,
                   kd_tensor x,
                   kd_tensor w,
                   kd_tensor rstd,
                   int64_t n_heads,
                   float eps)
{
    constexpr int V = KD_PIECE<T>;
    const int64_t head_dim = kd_tensor_columns(x) / n_heads;
    const int64_t n_parts = kd_tensor_rows(x) * n_heads;
    const dim3 block = kd_cuda_groups_of(head_dim, V);
    const bool aligned = (n_heads == 1 || head_dim % V == 0) && kd_cuda_fits(y, V) &&
                         kd_cuda_fits(x, V) && kd_cuda_fits(w, V);
    const head_norm_args<T> a = {kd_cuda_data<T>(y),
                                 kd_cuda_data<T>(x),
                                 kd_cuda_data<float>(w),
                                 kd_cuda_data<float>(rstd),
                                 y.row_stride,
                                 x.row_stride,
                                 n_parts,
                                 head_dim,
                                 kd_divisor_of(n_heads),
                                 eps,
                                 aligned};

    KD_CHECK(n_parts <= INT32_MAX);
    kd_cuda_launch(be, "head_norm", head_norm_parts<T>, dim3(kd_cuda_blocks(n_parts, block.y)),
                   block, 0, a);
}

void kd_cuda_head_norm(kd_backend *be,
                       kd_tensor y,
                       kd_tensor x,
                       kd_tensor w,
                       kd_tensor rstd,
                       int64_t n_heads,
                       float eps)
{
    kd_check_head_norm(y, x, w, rstd, n_heads);
    kd_cuda_with_type(x.dtype,
                      [&](auto t) { launch<decltype(t)>(be, y, x, w, rstd, n_heads, eps); });
}

/* Moves x, dy and dx once. */
void kd_cuda_head_norm_backward(kd_backend *be,
                                kd_tensor dx,
                                kd_tensor dw,
                                kd_tensor dy,
                                kd_tensor x,
                                kd_tensor w,
                                kd_tensor rstd,
                                int64_t n_heads,
                                bool accumulate)
{
    kd_check_head_norm_backward(dx, dw, dy, x, w, rstd, n_heads);
    kd_cuda_with_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        kd_cuda_norm_backward_of<false, T, T, T>(be, "head_norm_backward", dx, dw, dy, x, w, rstd,
                                                 n_heads, accumulate);
    });
}
