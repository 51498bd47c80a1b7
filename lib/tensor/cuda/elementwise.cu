/*
 * elementwise.cu - casts, sums and biases: each element is read and written once, a piece of a row by each
 * thread. Packed tensors are one long row.
 */
#include <algorithm>

#include "tensor/cuda/columns.h"
#include "tensor/cuda/pieces.h"

enum { ZERO_THREADS = 256, ZERO_BLOCKS = 4096 };

/* Two tensors of one shape, as rows: one if both are packed. */
struct pair {
    int64_t rows, columns, dst_stride, src_stride;
};

static pair pair_of(kd_tensor dst, kd_tensor src)
{
    const int64_t rows = kd_tensor_rows(dst), columns = kd_tensor_columns(dst);

    if (dst.row_stride == columns && src.row_stride == columns) {
        return {1, rows * columns, 0, 0};
    }
    return {rows, columns, dst.row_stride, src.row_stride};
}

/* Both by pieces; one row has no stride that could be wrong. */
static bool pair_fits(kd_tensor dst, kd_tensor src, const pair &p, int width)
{
    if (p.rows == 1) {
        dst = kd_tensor_1d(dst.data, dst.dtype, p.columns);
        src = kd_tensor_1d(src.data, src.dtype, p.columns);
    }
    return kd_cuda_fits(dst, width) && kd_cuda_fits(src, width);
}

/*
 * dst = src of another dtype, or dst += src: dst, src (rows, columns). Moves the bytes of both once, with
 * ADD those of dst twice.
 */
template <bool ADD, class D, class S>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    convert_pieces(kd_pieces s, D *dst, int64_t dst_stride, const S *src, int64_t src_stride)
{
    constexpr int V = KD_PIECE<D, S>;
    const kd_place at = kd_place_of<V>(s);
    D *to = dst + at.row * dst_stride + at.column;
    float v[V], sum[V];

    if (at.piece.n <= 0) {
        return;
    }
    kd_read(v, src + at.row * src_stride + at.column, at.piece);
    if (ADD) {
        kd_read(sum, to, at.piece);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = sum[i] + v[i];
        }
    }
    kd_write(to, v, at.piece);
}

template <bool ADD, class D, class S>
static void convert(kd_backend *be, const char *what, kd_tensor dst, kd_tensor src)
{
    constexpr int V = KD_PIECE<D, S>;
    const pair p = pair_of(dst, src);

    kd_cuda_launch_pieces(be, what, convert_pieces<ADD, D, S>, p.rows, p.columns, V,
                          pair_fits(dst, src, p, V), kd_cuda_data<D>(dst), p.dst_stride,
                          kd_cuda_data<S>(src), p.src_stride);
}

/* t (rows, units) = 0 in units of T, rows stride units apart; writes each byte once. A kernel, since the
 * runtime's memset is for a device's own memory only. */
template <class T>
static __global__ void __launch_bounds__(ZERO_THREADS)
    zero_units(T *t, int64_t rows, int64_t units, int64_t stride)
{
    const int64_t n = rows * units;

    for (int64_t i = int64_t{blockIdx.x} * ZERO_THREADS + threadIdx.x; i < n;
         i += int64_t{gridDim.x} * ZERO_THREADS) {
        const int64_t row = rows == 1 ? 0 : i / units; /* a division costs more than a store */
        t[row * stride + (i - row * units)] = T{};
    }
}

template <class T> static void zero_by(kd_backend *be, kd_tensor t, const pair &p)
{
    const int64_t size = static_cast<int64_t>(kd_dtype_bytes(t.dtype));
    const int64_t units = p.columns * size / static_cast<int64_t>(sizeof(T));
    const int64_t stride = p.dst_stride * size / static_cast<int64_t>(sizeof(T));
    const int64_t n_blocks = (p.rows * units + ZERO_THREADS - 1) / ZERO_THREADS;

    kd_cuda_launch(be, "zero", zero_units<T>,
                   static_cast<unsigned>(std::min<int64_t>(n_blocks, ZERO_BLOCKS)), ZERO_THREADS, 0,
                   static_cast<T *>(t.data), p.rows, units, stride);
}

void kd_cuda_zero(kd_backend *be, kd_tensor t)
{
    const pair p = pair_of(t, t);
    const int64_t size = static_cast<int64_t>(kd_dtype_bytes(t.dtype));

    if (kd_is_aligned(t.data) && p.columns * size % 16 == 0 && p.dst_stride * size % 16 == 0) {
        zero_by<uint4>(be, t, p);
    } else {
        zero_by<uint16_t>(be, t, p); /* half of any element */
    }
}

/* Of any dtype; a row at a time unless both are packed. */
static void copy_bytes(kd_backend *be, kd_tensor dst, kd_tensor src)
{
    const pair p = pair_of(dst, src);
    const size_t size = kd_dtype_bytes(dst.dtype);
    const size_t width = static_cast<size_t>(p.columns) * size;
    const cudaStream_t stream = kd_cuda_of(be)->stream;

    if (be->fault != KD_OK || p.rows == 0 || p.columns == 0) {
        return;
    }
    const cudaError_t error = kd_cuda_copy_rows(dst.data, static_cast<size_t>(p.dst_stride) * size,
                                                src.data, static_cast<size_t>(p.src_stride) * size,
                                                width, static_cast<size_t>(p.rows), stream);
    (void)kd_cuda_keep(be, error, "copy");
}

void kd_cuda_copy(kd_backend *be, kd_tensor dst, kd_tensor src)
{
    kd_check_copy(dst, src);
    if (dst.dtype == src.dtype) {
        copy_bytes(be, dst, src);
    } else if (dst.dtype == KD_BF16) {
        convert<false, __nv_bfloat16, float>(be, "copy", dst, src);
    } else {
        convert<false, float, __nv_bfloat16>(be, "copy", dst, src);
    }
}

void kd_cuda_add(kd_backend *be, kd_tensor dst, kd_tensor src)
{
    kd_check_add(dst, src);
    kd_cuda_with_type(src.dtype,
                      [&](auto s) { convert<true, float, decltype(s)>(be, "add", dst, src); });
}

/* y (rows, columns) += b (columns) of every row. Moves y twice; b comes from the cache. */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    bias_pieces(kd_pieces s, T *y, int64_t stride, const float *b)
{
    constexpr int V = KD_PIECE<T, float>;
    const kd_place at = kd_place_of<V>(s);
    T *to = y + at.row * stride + at.column;
    float v[V], bias[V];

    if (at.piece.n <= 0) {
        return;
    }
    kd_read(v, to, at.piece);
    kd_read(bias, b + at.column, at.piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        v[i] += bias[i];
    }
    kd_write(to, v, at.piece);
}

void kd_cuda_bias(kd_backend *be, kd_tensor y, kd_tensor b)
{
    const int64_t rows = kd_tensor_rows(y), columns = kd_tensor_columns(y);

    kd_check_bias(y, b);
    kd_cuda_with_type(y.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T, float>;
        kd_cuda_launch_pieces(be, "bias", bias_pieces<T>, rows, columns, V,
                              kd_cuda_fits(y, V) && kd_cuda_fits(b, V), kd_cuda_data<T>(y),
                              y.row_stride, kd_cuda_data<float>(b));
    });
}

void kd_cuda_bias_backward(kd_backend *be, kd_tensor db, kd_tensor dy, bool accumulate)
{
    kd_check_bias_backward(db, dy);
    kd_cuda_sum_columns(be, db, dy, accumulate);
}
