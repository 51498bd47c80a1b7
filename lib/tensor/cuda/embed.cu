/*
 * embed.cu - rows of a table by their ids, and their gradient: several rows may have one id, so row numbers
 * are sorted by id first, and whoever has the first of an id adds all of its rows in ascending order. No sum
 * has two writers.
 *
 * The sort is a stable radix sort of pairs (id, row), 8 bits a pass, lowest first. A pass cuts the pairs into
 * tiles; of each tile a thread per digit counts, and later places, the pairs that have its digit, walking
 * through the tile in order. That makes it stable and needs no atomics.
 */
#include "tensor/cuda/pieces.h"

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, TILE = 1024, SCAN_THREADS = 1024 };

/* y (N, C) f32 = table[ids], table (V, C). Moves y once and as many rows of the table. */
template <class T>
static __global__ void __launch_bounds__(KD_PIECES_THREADS) embed_pieces(kd_pieces s,
                                                                         float *y,
                                                                         int64_t y_stride,
                                                                         const T *table,
                                                                         int64_t table_stride,
                                                                         const int32_t *ids,
                                                                         int64_t n_vocab,
                                                                         int *trap)
{
    constexpr int V = KD_PIECE<T, float>;
    const kd_place at = kd_place_of<V>(s);
    float v[V];

    if (at.piece.n <= 0) {
        return;
    }
    const int64_t id = ids[at.row];
    kd_device_check(id >= 0 && id < n_vocab, trap, KD_TRAP_EMBED);
    kd_read(v, table + id * table_stride + at.column, at.piece);
    kd_write(y + at.row * y_stride + at.column, v, at.piece);
}

void kd_cuda_embed(kd_backend *be, kd_tensor y, kd_tensor table, kd_tensor ids)
{
    kd_check_embed(y, table, ids);
    kd_cuda_with_type(table.dtype, [&](auto t) {
        using T = decltype(t);
        constexpr int V = KD_PIECE<T, float>;
        kd_cuda_launch_pieces(be, "embed", embed_pieces<T>, kd_tensor_rows(y), kd_tensor_columns(y),
                              V, kd_cuda_fits(y, V) && kd_cuda_fits(table, V),
                              kd_cuda_data<float>(y), y.row_stride, kd_cuda_data<T>(table),
                              table.row_stride, kd_cuda_data<int32_t>(ids), kd_tensor_rows(table),
                              kd_cuda_of(be)->trap);
    });
}

/* ---- the sort ---- */

/* Pairs (id, row); rows none: pair i is of row i. */
struct pairs {
    int32_t *ids, *rows;
};

KD_FN int digit_of(int32_t id, int shift)
{
    return id >> shift & (DIGITS - 1);
}

/* The digits of a tile, for all threads; returns how many. Every thread must come. */
KD_FN int load_digits(int32_t *digits, const int32_t *ids, int64_t first, int64_t n, int shift)
{
    const int count = n - first < TILE ? (int)(n - first) : (int)TILE;

    for (int i = threadIdx.x; i < count; i += DIGITS) {
        digits[i] = digit_of(ids[first + i], shift);
    }
    __syncthreads();
    return count;
}

/* starts[digit * n_tiles + tile] = how many pairs of the tile have the digit. One thread a digit. */
static __global__ void __launch_bounds__(DIGITS)
    count_digits(int32_t *starts, const int32_t *ids, int64_t n, int shift)
{
    KD_SHARED(int32_t, digits, [TILE]);
    const int count = load_digits(digits, ids, (int64_t)blockIdx.x * TILE, n, shift);
    int32_t found = 0;

    for (int i = 0; i < count; i++) {
        found += digits[i] == (int)threadIdx.x;
    }
    starts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = found;
}

/* The sum over the threads before this one. Every thread of the block must come. */
KD_FN int32_t sum_before(int32_t *sums, int32_t own)
{
    const unsigned t = threadIdx.x;

    sums[t] = own;
    __syncthreads();
    for (unsigned d = 1; d < SCAN_THREADS; d *= 2) {
        const int32_t before = t >= d ? sums[t - d] : 0;
        __syncthreads();
        sums[t] += before;
        __syncthreads();
    }
    return sums[t] - own;
}

/* Counts become sums of those before: one block, a run of them for each thread. */
static __global__ void __launch_bounds__(SCAN_THREADS) sum_counts(int32_t *starts, int64_t n)
{
    KD_SHARED(int32_t, sums, [SCAN_THREADS]);
    const int64_t run = (n + SCAN_THREADS - 1) / SCAN_THREADS;
    const int64_t first = threadIdx.x * run, end = min(n, first + run);
    int32_t own = 0;

    for (int64_t i = first; i < end; i++) {
        own += starts[i];
    }
    int32_t before = sum_before(sums, own);
    for (int64_t i = first; i < end; i++) {
        const int32_t count = starts[i];
        starts[i] = before;
        before += count;
    }
}

/* Each pair to where its digit's begin, behind those before it. One thread a digit. */
static __global__ void __launch_bounds__(DIGITS)
    place_pairs(pairs to, pairs from, const int32_t *starts, int64_t n, int shift)
{
    KD_SHARED(int32_t, digits, [TILE]);
    const int64_t first = (int64_t)blockIdx.x * TILE;
    const int count = load_digits(digits, from.ids, first, n, shift);
    int32_t at = starts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x];

    for (int i = 0; i < count; i++) {
        if (digits[i] == (int)threadIdx.x) {
            to.ids[at] = from.ids[first + i];
            to.rows[at] = from.rows != nullptr ? from.rows[first + i] : (int32_t)(first + i);
            at++;
        }
    }
}

static pairs take_pairs(kd_backend *be, int64_t n)
{
    int32_t *memory =
        static_cast<int32_t *>(kd_cuda_scratch(be, 2 * static_cast<size_t>(n) * sizeof *memory));
    return memory == nullptr ? pairs{} : pairs{memory, memory + n};
}

/* Pairs by ascending id and, of one id, ascending row; in scratch memory of the caller's mark. */
static pairs sort_rows(kd_backend *be, kd_tensor ids, int64_t n_vocab)
{
    const int64_t n = kd_tensor_elements(ids);
    const unsigned n_tiles = kd_cuda_blocks(n, TILE);
    const int64_t n_starts = static_cast<int64_t>(n_tiles) * DIGITS;
    int32_t *starts =
        static_cast<int32_t *>(kd_cuda_scratch(be, static_cast<size_t>(n_starts) * sizeof *starts));
    pairs spare[2] = {take_pairs(be, n), take_pairs(be, n)};
    pairs sorted = {kd_cuda_data<int32_t>(ids), nullptr};
    int pass = 0;

    do {
        const int shift = pass * DIGIT_BITS;
        kd_cuda_launch(be, "digits of ids", count_digits, dim3(n_tiles), dim3(DIGITS), 0, starts,
                       sorted.ids, n, shift);
        kd_cuda_launch(be, "digits of ids", sum_counts, dim3(1), dim3(SCAN_THREADS), 0, starts,
                       n_starts);
        kd_cuda_launch(be, "digits of ids", place_pairs, dim3(n_tiles), dim3(DIGITS), 0,
                       spare[pass % 2], sorted, starts, n, shift);
        sorted = spare[pass % 2];
        pass++;
    } while ((n_vocab - 1) >> (pass * DIGIT_BITS) > 0);
    return sorted;
}

/* ---- the gradient ---- */

/* Rows that a thread reads before it adds the first of them. */
enum { ROWS_IN_FLIGHT = 8 };

/* The first pair behind `at` that has another id, of n; ids ascend. */
KD_FN int64_t end_of_id(const int32_t *ids, int64_t at, int64_t n)
{
    const int32_t id = ids[at];
    int64_t low = at + 1, high = n;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (ids[middle] == id) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/*
 * dtable[id] += the rows of dy (N, C) f32 that have this id, for the first pair of each id; the others have
 * nothing to do. Moves dy once and those rows of dtable twice.
 */
static __global__ void __launch_bounds__(KD_PIECES_THREADS) embed_backward_pieces(kd_pieces s,
                                                                                  float *dtable,
                                                                                  int64_t stride,
                                                                                  const float *dy,
                                                                                  int64_t dy_stride,
                                                                                  pairs sorted,
                                                                                  int64_t n_vocab,
                                                                                  int *trap)
{
    constexpr int V = KD_PIECE<float>;
    const kd_place at = kd_place_of<V>(s);
    float sum[V], v[ROWS_IN_FLIGHT][V];

    if (at.piece.n <= 0) {
        return;
    }
    const int32_t id = sorted.ids[at.row];
    kd_device_check(id >= 0 && id < n_vocab, trap, KD_TRAP_EMBED_BACKWARD);
    if (at.row > 0 && sorted.ids[at.row - 1] == id) {
        return;
    }
    float *to = dtable + id * stride + at.column;
    const int64_t end = end_of_id(sorted.ids, at.row, s.rows);
    kd_read(sum, to, at.piece);
    for (int64_t i = at.row; i < end; i += ROWS_IN_FLIGHT) {
#pragma unroll
        for (int k = 0; k < ROWS_IN_FLIGHT; k++) {
            const int64_t row = i + k < end ? sorted.rows[i + k] : 0;
            kd_read(v[k], dy + row * dy_stride + at.column,
                    i + k < end ? at.piece : kd_piece{0, false});
        }
#pragma unroll
        for (int k = 0; k < ROWS_IN_FLIGHT * V; k++) {
            sum[k % V] += v[k / V][k % V];
        }
    }
    kd_write(to, sum, at.piece);
}

void kd_cuda_embed_backward(kd_backend *be,
                            kd_tensor dtable,
                            kd_tensor dy,
                            kd_tensor ids,
                            bool accumulate)
{
    constexpr int V = KD_PIECE<float>;
    const size_t mark = kd_cuda_scratch_mark(be);

    kd_check_embed_backward(dtable, dy, ids);
    if (!accumulate) {
        kd_cuda_zero(be, dtable);
    }
    const pairs sorted = sort_rows(be, ids, kd_tensor_rows(dtable));
    kd_cuda_launch_pieces(be, "embed_backward", embed_backward_pieces, kd_tensor_rows(dy),
                          kd_tensor_columns(dy), V, kd_cuda_fits(dtable, V) && kd_cuda_fits(dy, V),
                          kd_cuda_data<float>(dtable), dtable.row_stride, kd_cuda_data<float>(dy),
                          dy.row_stride, sorted, kd_tensor_rows(dtable), kd_cuda_of(be)->trap);
    kd_cuda_scratch_rewind(be, mark);
}
