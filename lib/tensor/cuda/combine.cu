/*
 * combine.cu - moves rows between tokens and segments by the places that route has written down.
 * Each row has one writer in each direction, so there is nothing to lock and sums keep their order.
 *
 * In what follows y is by token (N, C) and x by row of a segment (R, C); either may be a gradient.
 */
#include "tensor/cuda/row.h"

/*
 * Dispatch: x[r] = y[token[r]], zeros where that is -1. A warp a row; U is what a lane moves at
 * once, of which a row has n_units and `stride` counts. Bytes: x once, y K times, mostly from the
 * cache.
 */
template <class U>
static __global__ void __launch_bounds__(KD_ROW_THREADS)
    gather_rows(U *__restrict__ x_rows,
                int64_t x_stride,
                const U *__restrict__ y_rows,
                int64_t y_stride,
                const int32_t *__restrict__ tokens,
                int64_t n_rows,
                int64_t n_units)
{
    const int64_t row = kd_row_number();

    if (row >= n_rows) {
        return;
    }
    const int64_t token = tokens[row];
    const U *y = y_rows + token * y_stride;
    U *x = x_rows + row * x_stride;
#pragma unroll 8
    for (int64_t c = kd_row_first<1>(); c < n_units; c += 32) {
        x[c] = token < 0 ? U{} : y[c];
    }
}

/*
 * Combine: y[n] = sum over K of weights * x[position], in f32 and in the order of choices; weights
 * NULL: all are 1, which is the gradient of dispatch. A warp a token. Bytes: K rows of x, one of y.
 * Five blocks a multiprocessor leave 48 registers; left alone, nvcc wants six and spills on sm_90a.
 */
template <class Y, class X, int W>
static __global__ void __launch_bounds__(KD_ROW_THREADS, 5)
    sum_rows(Y *__restrict__ y_rows,
             int64_t y_stride,
             const X *__restrict__ x_rows,
             int64_t x_stride,
             const float *__restrict__ weights,
             const int32_t *__restrict__ position,
             int64_t n_tokens,
             int k,
             int64_t n_columns)
{
    const int64_t token = kd_row_number(), first = token * k;

    if (token >= n_tokens) {
        return;
    }
    for (int64_t c = kd_row_first<W>(); c < n_columns; c += 32 * W) {
        float sum[W] = {};
#pragma unroll 4
        for (int j = 0; j < k; j++) {
            const float weight = weights == nullptr ? 1.0f : weights[first + j];
            float v[W];
            kd_load_vector(v, x_rows + position[first + j] * x_stride + c);
#pragma unroll
            for (int i = 0; i < W; i++) {
                sum[i] += weight * v[i];
            }
        }
        kd_store_vector(y_rows + token * y_stride + c, sum);
    }
}

/*
 * Backward of combine: for choice j of token n, in row r: dx[r] = weights dy[n], d_weights = sum
 * over C of dy[n] x[r]. A warp a choice, those of a token side by side, so that dy comes from the
 * cache but once. Bytes: x and dx of the rows in use, dy once.
 */
template <class T, int W>
static __global__ void __launch_bounds__(KD_ROW_THREADS)
    scale_rows(T *__restrict__ dx,
               int64_t dx_stride,
               float *__restrict__ d_weights,
               const float *__restrict__ dy,
               int64_t dy_stride,
               const T *__restrict__ x,
               int64_t x_stride,
               const float *__restrict__ weights,
               const int32_t *__restrict__ position,
               int64_t n_choices,
               int k,
               int64_t n_columns)
{
    const int64_t choice = kd_row_number();

    if (choice >= n_choices) {
        return;
    }
    const int64_t row = position[choice], token = choice / k;
    const float dot = kd_row_scale<W>(dx + row * dx_stride, dy + token * dy_stride,
                                      x + row * x_stride, weights[choice], n_columns);
    if (threadIdx.x % 32 == 0) {
        d_weights[choice] = dot;
    }
}

/* Zeros in the rows of padding. A warp a row; bytes: the token numbers, and those rows. */
template <class U>
static __global__ void __launch_bounds__(KD_ROW_THREADS)
    clear_padding(U *__restrict__ dx,
                  int64_t dx_stride,
                  const int32_t *__restrict__ tokens,
                  int64_t n_rows,
                  int64_t n_units)
{
    const int64_t row = kd_row_number();

    if (row >= n_rows || tokens[row] >= 0) {
        return;
    }
    for (int64_t c = kd_row_first<1>(); c < n_units; c += 32) {
        dx[row * dx_stride + c] = U{};
    }
}

/* Calls f(U{}, elements of one U): 16 bytes where all rows of all tensors allow it, else an
 * element. */
template <class F> static void with_unit(kd_dtype dtype, bool is_wide, F f)
{
    if (is_wide) {
        f(uint4{}, static_cast<int64_t>(sizeof(uint4) / kd_dtype_bytes(dtype)));
    } else if (dtype == KD_BF16) {
        f(uint16_t{}, int64_t{1});
    } else {
        f(uint32_t{}, int64_t{1});
    }
}

void kd_cuda_dispatch(kd_backend *be, kd_tensor x, kd_tensor y, const kd_route *route)
{
    kd_check_dispatch(x, y, route);
    with_unit(x.dtype, kd_row_is_wide(x, y), [&](auto unit, int64_t elements) {
        using U = decltype(unit);
        kd_row_launch(be, "dispatch", gather_rows<U>, kd_tensor_rows(x), kd_cuda_data<U>(x),
                      x.row_stride / elements, kd_cuda_data<U>(y), y.row_stride / elements,
                      kd_cuda_data<int32_t>(route->token), kd_tensor_rows(x),
                      kd_tensor_columns(x) / elements);
    });
}

static void sum_into(kd_backend *be,
                     const char *what,
                     kd_tensor y,
                     kd_tensor x,
                     const float *weights,
                     const kd_route *route)
{
    kd_cuda_with_type(x.dtype, [&](auto x_element) {
        kd_cuda_with_type(y.dtype, [&](auto y_element) {
            kd_row_with_width(kd_row_is_wide(y, x), [&](auto width) {
                using X = decltype(x_element);
                using Y = decltype(y_element);
                kd_row_launch(be, what, sum_rows<Y, X, decltype(width)::value>, kd_tensor_rows(y),
                              kd_cuda_data<Y>(y), y.row_stride, kd_cuda_data<X>(x), x.row_stride,
                              weights, kd_cuda_data<int32_t>(route->position), kd_tensor_rows(y),
                              kd_tensor_columns(route->position), kd_tensor_columns(y));
            });
        });
    });
}

void kd_cuda_dispatch_backward(kd_backend *be, kd_tensor dy, kd_tensor dx, const kd_route *route)
{
    kd_check_dispatch_backward(dy, dx, route);
    sum_into(be, "dispatch_backward", dy, dx, nullptr, route);
}

void kd_cuda_combine(kd_backend *be, kd_tensor y, kd_tensor x, const kd_route *route)
{
    kd_check_combine(be, y, x, route);
    sum_into(be, "combine", y, x, kd_cuda_data<float>(route->weights), route);
}

void kd_cuda_combine_backward(kd_backend *be,
                              kd_tensor dx,
                              kd_tensor d_weights,
                              kd_tensor dy,
                              kd_tensor x,
                              const kd_route *route)
{
    const int64_t n_choices = kd_tensor_elements(route->position);

    kd_check_combine_backward(dx, d_weights, dy, x, route);
    with_unit(dx.dtype, kd_row_is_wide(dx), [&](auto unit, int64_t elements) {
        using U = decltype(unit);
        kd_row_launch(be, "combine_backward", clear_padding<U>, kd_tensor_rows(dx),
                      kd_cuda_data<U>(dx), dx.row_stride / elements,
                      kd_cuda_data<int32_t>(route->token), kd_tensor_rows(dx),
                      kd_tensor_columns(dx) / elements);
    });
    kd_cuda_with_type(x.dtype, [&](auto element) {
        kd_row_with_width(kd_row_is_wide(dx, dy, x), [&](auto width) {
            using T = decltype(element);
            kd_row_launch(be, "combine_backward", scale_rows<T, decltype(width)::value>, n_choices,
                          kd_cuda_data<T>(dx), dx.row_stride, kd_cuda_data<float>(d_weights),
                          kd_cuda_data<float>(dy), dy.row_stride, kd_cuda_data<T>(x), x.row_stride,
                          kd_cuda_data<float>(route->weights),
                          kd_cuda_data<int32_t>(route->position), n_choices,
                          kd_tensor_columns(route->position), kd_tensor_columns(x));
        });
    });
}
