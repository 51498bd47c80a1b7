/*
 * head_norm_rotate.cu - norm of heads and rotary embedding in one pass: both only move memory, and so it moves
 * 4 bytes an element in bf16 where one after the other moves 8; backward 6 instead of 10. Sums have the trees
 * of head_norm.cu and values are rounded where it writes them, so that the two in sequence, which serve whoever
 * looks between them, give the same bits.
 */
#include "tensor/cuda/norm_rows.h"
#include "tensor/cuda/rotary.h"

/* Pairs of heads that are moved at once: half a piece of each side, so that as many threads have work. */
enum { PAIRS = 4 };

template <class T> struct norm_turn_args {
    T *y;
    const T *x;
    const float *w; /* (columns)  */
    float *rstd;    /* (N, parts) */
    int64_t y_stride, x_stride;
    int64_t n_parts, columns; /* of a part */
    kd_divisor per_row, pieces_per_head;
    unsigned n_pieces; /* of pairs, of a part */
    float eps;
    bool aligned, pairs_aligned;
};

/* v = w * x * rstd, as head_norm would have written it. */
template <class T>
KD_FN void norm_piece(float (&v)[PAIRS], const T *x, const float *w, float rstd, kd_piece piece)
{
    float scale[PAIRS];

    kd_read(v, x, piece);
    kd_read(scale, w, piece);
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        v[i] = kd_rounded<T>(scale[i] * (v[i] * rstd));
    }
}

/*
 * y = rotate(w * x * rstd) with rstd = 1 / sqrt(mean(x^2) + eps) over each of `n_parts` parts of rows, each of
 * whole heads; x, y (N, heads * D). A group of threads for each part; x is read again for y, from the cache.
 * Moves x and y once.
 */
template <class T>
static __global__ void __launch_bounds__(KD_GROUP_THREADS_MAX)
    norm_and_turn_parts(norm_turn_args<T> a, kd_rotary r)
{
    constexpr int V = KD_PIECE<T>;
    const int64_t part = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    const bool is_there = part < a.n_parts; /* the sum wants all threads */
    const kd_part place = kd_part_of(is_there ? part : 0, a.per_row, a.columns);
    const T *x = a.x + place.row * a.x_stride + place.column;
    T *y = a.y + place.row * a.y_stride + place.column;
    const float squares = is_there ? kd_part_squares<V>(x, a.columns, a.aligned) : 0.0f;
    const float rstd = kd_rstd(kd_group_sum(squares), a.columns, a.eps);
    const float *angles = kd_rotary_angles(r, place.row);
    float low[PAIRS], high[PAIRS];

    for (unsigned n = threadIdx.x; is_there && n < a.n_pieces; n += blockDim.x) {
        const unsigned head = kd_divide(n, a.pieces_per_head);
        const int pair = (int)kd_remainder(n, head, a.pieces_per_head) * PAIRS;
        const int64_t at = (int64_t)head * r.head_dim.divisor + pair;
        const kd_piece piece = kd_piece_of<PAIRS>(r.half - pair, a.pairs_aligned);
        norm_piece(low, x + at, a.w + at, rstd, piece);
        norm_piece(high, x + at + r.half, a.w + at + r.half, rstd, piece);
        kd_turn(low, high, r, angles + pair, piece);
        kd_write(y + at, low, piece);
        kd_write(y + at + r.half, high, piece);
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
                   float eps,
                   const kd_rotation *by)
{
    constexpr int V = KD_PIECE<T>;
    const int64_t n_parts = kd_norm_parts(x, w), rows = kd_tensor_rows(x);
    const int64_t columns = kd_tensor_elements(w);
    const int64_t head_dim = kd_tensor_columns(x) / by->n_heads;
    const int64_t pieces_per_head = (head_dim / 2 + PAIRS - 1) / PAIRS;
    const dim3 block = kd_cuda_groups_of(columns, V);
    const norm_turn_args<T> a = {kd_cuda_data<T>(y),
                                 kd_cuda_data<T>(x),
                                 kd_cuda_data<float>(w),
                                 kd_cuda_data<float>(rstd),
                                 y.row_stride,
                                 x.row_stride,
                                 rows * n_parts,
                                 columns,
                                 kd_divisor_of(n_parts),
                                 kd_divisor_of(pieces_per_head),
                                 static_cast<unsigned>(by->n_heads / n_parts * pieces_per_head),
                                 eps,
                                 (n_parts == 1 || columns % V == 0) && kd_cuda_fits(x, V),
                                 kd_rotary_fits(by, head_dim, PAIRS) && kd_cuda_fits(x, PAIRS) &&
                                     kd_cuda_fits(y, PAIRS) && kd_cuda_fits(w, PAIRS)};

    KD_CHECK(rows * n_parts <= INT32_MAX && kd_tensor_columns(x) <= INT32_MAX);
    kd_cuda_launch(be, "head_norm_rotate", norm_and_turn_parts<T>,
                   dim3(kd_cuda_blocks(rows * n_parts, block.y)), block, 0, a,
                   kd_rotary_of(be, x, by, false));
}

void kd_cuda_head_norm_rotate(kd_backend *be,
                              kd_tensor y,
                              kd_tensor x,
                              kd_tensor w,
                              kd_tensor rstd,
                              float eps,
                              const kd_rotation *by)
{
    kd_check_head_norm_rotate(y, x, w, rstd, by);
    kd_cuda_with_type(x.dtype, [&](auto t) { launch<decltype(t)>(be, y, x, w, rstd, eps, by); });
}

/* ---- backward ---- */

/* The gradient of what the norm gave, as rotate would have written it: dy turned back. */
template <class T> struct dy_turned {
    kd_rotary r;
    const float *angles; /* of the row */

    KD_MEMBER dy_turned of_row(unsigned row) const
    {
        return {r, kd_rotary_angles(r, row)};
    }

    /* The first pair of a column's head, and which side of it that is. */
    KD_MEMBER int64_t low_of(int64_t at, int *pair_out, bool *is_high_out) const
    {
        const unsigned head = kd_divide((unsigned)at, r.head_dim);
        const int column = (int)kd_remainder((unsigned)at, head, r.head_dim);
        *is_high_out = column >= r.half;
        *pair_out = *is_high_out ? column - r.half : column;
        return *is_high_out ? at - r.half : at;
    }

    template <int N>
    KD_MEMBER void turn(float (&d)[N], const T *dy, int64_t at, kd_piece piece) const
    {
        float high[N];
        bool is_high;
        int pair;
        const int64_t low = low_of(at, &pair, &is_high);

        kd_read(d, dy + low, piece);
        kd_read(high, dy + low + r.half, piece);
        kd_turn(d, high, r, angles + pair, piece);
#pragma unroll
        for (int i = 0; i < N; i++) {
            d[i] = kd_rounded<T>(is_high ? high[i] : d[i]);
        }
    }

    /* A piece that is moved at once is of one side of one head. */
    template <int V>
    KD_MEMBER void read(float (&d)[V], const T *dy, int64_t at, kd_piece piece) const
    {
        if (piece.whole) {
            turn(d, dy, at, piece);
            return;
        }
#pragma unroll
        for (int i = 0; i < V; i++) {
            float one[1] = {};
            if (i < piece.n) {
                turn(one, dy, at + i, kd_piece{1, false});
            }
            d[i] = one[0];
        }
    }
};

/* Moves x, dy and dx once. */
void kd_cuda_head_norm_rotate_backward(kd_backend *be,
                                       kd_tensor dx,
                                       kd_tensor dw,
                                       kd_tensor dy,
                                       kd_tensor x,
                                       kd_tensor w,
                                       kd_tensor rstd,
                                       bool accumulate,
                                       const kd_rotation *by)
{
    kd_check_head_norm_rotate_backward(dx, dw, dy, x, w, rstd, by);
    const int64_t head_dim = kd_tensor_columns(x) / by->n_heads;
    kd_cuda_with_type(x.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T>;
        kd_cuda_norm_backward_of<false, T, T, T>(
            be, "head_norm_rotate_backward", dx, dw, dy, x, w, rstd, kd_norm_parts(x, w),
            accumulate, dy_turned<T>{kd_rotary_of(be, x, by, true), nullptr},
            kd_rotary_fits(by, head_dim, V));
    });
}
