/*
 * pieces.h - how kernels that are bound by memory walk over rows: who has which elements, moved 16 bytes at a
 * time where the views allow it and one by one where not.
 *
 * Two layouts of a block, threads (x, y) with x along a row:
 *   pieces  each thread has one piece of one row, a block has pieces side by side and rows below each other
 *   groups  blockDim.x threads, a power of 2, walk along a whole row together; a block has blockDim.y of
 *           such groups, more than one only where a group is at most a warp
 */
#ifndef KD_TENSOR_CUDA_PIECES_H
#define KD_TENSOR_CUDA_PIECES_H

#include "tensor/cuda/cuda.h"

enum { KD_PIECES_THREADS = 256, KD_GROUP_THREADS_MAX = 512 };

/* Elements of a piece: 16 bytes of the widest type. */
template <class... T> static constexpr int KD_PIECE = ((sizeof(T) == 4) || ...) ? 4 : 8;

/* n elements of at most KD_PIECE; whole: all of them, where they may be moved at once. */
struct kd_piece {
    int n;
    bool whole;
};

template <int V> KD_FN kd_piece kd_piece_of(int64_t n, bool aligned)
{
    return {n < V ? (int)n : V, aligned && n >= V};
}

/* v = the piece at p, with zeros behind it. */
template <class T, int V> KD_FN void kd_read(float (&v)[V], const T *p, kd_piece piece)
{
    if (piece.whole) {
        kd_load_vector(v, p);
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        v[i] = i < piece.n ? kd_load(p + i) : 0.0f;
    }
}

template <class T, int V> KD_FN void kd_write(T *p, const float (&v)[V], kd_piece piece)
{
    if (piece.whole) {
        kd_store_vector(p, v);
        return;
    }
#pragma unroll
    for (int i = 0; i < V; i++) {
        if (i < piece.n) {
            kd_store(p + i, v[i]);
        }
    }
}

/* ---- division ---- */

/*
 * Division by a number that the launch knows, as a multiplication and a shift (Granlund and Montgomery 1994):
 * with factor = ceil(2^(31 + s) / d) and d <= 2^s the quotient is right for every n < 2^31.
 */
struct kd_divisor {
    unsigned divisor, factor, shift;
};

KD_FN unsigned kd_divide(unsigned n, kd_divisor d)
{
    return (unsigned)((uint64_t)n * d.factor >> d.shift);
}

/* n - quotient * divisor. */
KD_FN unsigned kd_remainder(unsigned n, unsigned quotient, kd_divisor d)
{
    return n - quotient * d.divisor;
}

/* ---- pieces ---- */

struct kd_pieces {
    int64_t rows, columns;
    kd_divisor column_blocks; /* of each row */
    bool aligned;
};

struct kd_place {
    int64_t row, column;
    kd_piece piece; /* n <= 0: this thread has none */
};

template <int V> KD_FN kd_place kd_place_of(kd_pieces s)
{
    const unsigned row_block = kd_divide(blockIdx.x, s.column_blocks);
    const unsigned column_block = kd_remainder(blockIdx.x, row_block, s.column_blocks);
    const int64_t row = (int64_t)row_block * blockDim.y + threadIdx.y;
    const int64_t column = ((int64_t)column_block * blockDim.x + threadIdx.x) * V;
    return {row, column, kd_piece_of<V>(row < s.rows ? s.columns - column : 0, s.aligned)};
}

/* ---- groups ---- */

/* Sum over the group's threads, all of which must come, with those of the block's other groups; every one
 * gets it. */
KD_FN float kd_group_sum(float v)
{
    if (blockDim.x > 32) {
        return kd_block_sum(v);
    }
    for (unsigned d = blockDim.x / 2; d > 0; d /= 2) {
        v += __shfl_xor_sync(~0u, v, d);
    }
    return v;
}

/* ---- the host's side ---- */

static inline kd_divisor kd_divisor_of(int64_t divisor)
{
    unsigned bits = 0;

    KD_CHECK(divisor >= 1 && divisor <= INT32_MAX);
    while (int64_t{1} << bits < divisor) {
        bits++;
    }
    const uint64_t d = static_cast<uint64_t>(divisor), power = uint64_t{1} << (31 + bits);
    return {static_cast<unsigned>(d), static_cast<unsigned>((power + d - 1) / d), 31 + bits};
}

/* Threads along a row of so many pieces: a power of 2. */
static inline unsigned kd_cuda_threads_of(int64_t n_pieces, unsigned most)
{
    unsigned threads = 1;
    while (threads < most && threads < n_pieces) {
        threads *= 2;
    }
    return threads;
}

/* Launches kernel(pieces, args...) with a piece of `width` elements for each thread. */
template <class... P, class... A>
void kd_cuda_launch_pieces(kd_backend *be,
                           const char *what,
                           void (*kernel)(kd_pieces, P...),
                           int64_t rows,
                           int64_t columns,
                           int width,
                           bool aligned,
                           A... args)
{
    const int64_t n_pieces = (columns + width - 1) / width;
    const unsigned x = kd_cuda_threads_of(n_pieces, KD_PIECES_THREADS), y = KD_PIECES_THREADS / x;
    const unsigned column_blocks = kd_cuda_blocks(n_pieces, x);
    const int64_t n_blocks = static_cast<int64_t>(column_blocks) * kd_cuda_blocks(rows, y);

    kd_cuda_launch(
        be, what, kernel, dim3(kd_cuda_blocks(n_blocks, 1)), dim3(x, y), 0,
        kd_pieces{rows, columns, kd_divisor_of(column_blocks > 0 ? column_blocks : 1), aligned},
        args...);
}

/* Threads of a block whose groups walk along rows of so many columns. */
static inline dim3 kd_cuda_groups_of(int64_t columns, int width)
{
    const unsigned x = kd_cuda_threads_of((columns + width - 1) / width, KD_GROUP_THREADS_MAX);
    return dim3(x, x > 32 ? 1 : KD_PIECES_THREADS / x);
}

#endif
