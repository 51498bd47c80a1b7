/*
 * rotary.cu - the backward pass is the same turn the other way. Angles come from a table by position, so
 * packed sequences begin at 0 again.
 */
#include "tensor/cuda/rotary.h"

/*
 * Turns each head of x (N, heads * D), in place; a piece is of D/2 pairs of a head, and pieces of a row stand
 * side by side. Moves x twice; the table comes from the cache.
 */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS)
    rotate_pieces(kd_pieces s, T *x, int64_t stride, kd_divisor pieces_per_head, kd_rotary r)
{
    constexpr int V = KD_PIECE<T>;
    const kd_place at = kd_place_of<V>(s);
    float low[V], high[V];

    if (at.piece.n <= 0) {
        return;
    }
    const unsigned number = (unsigned)at.column / V, head = kd_divide(number, pieces_per_head);
    const int pair = (int)kd_remainder(number, head, pieces_per_head) * V;
    const kd_piece piece = kd_piece_of<V>(r.half - pair, s.aligned);
    T *to = x + at.row * stride + (int64_t)head * r.head_dim.divisor + pair;
    kd_read(low, to, piece);
    kd_read(high, to + r.half, piece);
    kd_turn(low, high, r, kd_rotary_angles(r, (unsigned)at.row) + pair, piece);
    kd_write(to, low, piece);
    kd_write(to + r.half, high, piece);
}

void kd_cuda_rotate(kd_backend *be, kd_tensor x, const kd_rotation *by, bool inverse)
{
    kd_check_rotate(x, by);
    const int64_t head_dim = kd_tensor_columns(x) / by->n_heads;
    const kd_rotary r = kd_rotary_of(be, x, by, inverse);
    kd_cuda_with_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T>;
        const int64_t pieces_per_head = (head_dim / 2 + V - 1) / V;
        kd_cuda_launch_pieces(be, "rotate", rotate_pieces<T>, kd_tensor_rows(x),
                              by->n_heads * pieces_per_head * V, V,
                              kd_rotary_fits(by, head_dim, V) && kd_cuda_fits(x, V),
                              kd_cuda_data<T>(x), x.row_stride, kd_divisor_of(pieces_per_head), r);
    });
}
