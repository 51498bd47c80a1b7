/*
 * rotary.cu - the backward pass is the same turn the other way. Angles come from a table by position, so
 * packed sequences begin at 0 again.
 */
#include "tensor/cuda/pieces.h"

struct rotate_args {
    const float *table; /* (T, D): cosines, then sines */
    int64_t table_stride, n_positions;
    const int32_t *positions; /* (N), or none: row mod T */
    int64_t n_heads, half;    /* D / 2 */
    float sign;               /* of the sines: -1 turns back */
};

/*
 * (x_i, x_{i + D/2}) of each head is turned by the angle of i at the row's position; x (N, heads * D), in
 * place. The pieces are of N * heads rows of D/2 pairs. Moves x twice; the table comes from the cache.
 */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    rotate_pieces(kd_pieces s, T *x, int64_t stride, rotate_args a)
{
    constexpr int V = KD_PIECE<T>;
    const kd_place at = kd_place_of<V>(s);
    float low[V], high[V], cosine[V], sine[V];

    if (at.piece.n <= 0) {
        return;
    }
    const int64_t row = at.row / a.n_heads, head = at.row % a.n_heads;
    const int64_t position = a.positions != nullptr ? a.positions[row] : row % a.n_positions;
    kd_device_check(position >= 0 && position < a.n_positions);
    const float *angle = a.table + position * a.table_stride + at.column;
    T *to = x + row * stride + 2 * head * a.half + at.column;
    kd_read(low, to, at.piece);
    kd_read(high, to + a.half, at.piece);
    kd_read(cosine, angle, at.piece);
    kd_read(sine, angle + a.half, at.piece);
#pragma unroll
    for (int i = 0; i < V; i++) {
        const float u = low[i], v = high[i], turn = a.sign * sine[i];
        low[i] = u * cosine[i] - v * turn;
        high[i] = v * cosine[i] + u * turn;
    }
    kd_write(to, low, at.piece);
    kd_write(to + a.half, high, at.piece);
}

void kd_cuda_rotate(kd_backend *be,
                    kd_tensor x,
                    int64_t n_heads,
                    kd_tensor table,
                    kd_tensor positions,
                    bool inverse)
{
    const int64_t rows = kd_tensor_rows(x), columns = kd_tensor_columns(x);

    kd_check_rotate(x, n_heads, table, positions);
    const int64_t n_pairs = columns / n_heads / 2;
    const rotate_args a = {kd_cuda_data<float>(table),
                           table.row_stride,
                           kd_tensor_rows(table),
                           kd_cuda_data<int32_t>(positions),
                           n_heads,
                           n_pairs,
                           inverse ? -1.0f : 1.0f};
    kd_cuda_with_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T>;
        kd_cuda_launch_pieces(be, "rotate", rotate_pieces<T>, rows * n_heads, n_pairs, V,
                              n_pairs % V == 0 && kd_cuda_fits(x, V) && kd_cuda_fits(table, V),
                              kd_cuda_data<T>(x), x.row_stride, a);
    });
}
