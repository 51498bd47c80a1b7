/*
 * experts.cu - products of the experts: one launch for all segments. Where these begin is read on the device,
 * so the grid is that of the worst routing, and blocks that find no tile leave at once.
 *
 * Slots. Tiles of M rows begin anew in each segment. Expert e has the slots from offset[e] / M + e on, up to
 * those of e + 1: at least as many as it has tiles, and R / M + E in all. So every block finds its expert by
 * itself, with one look at all offsets and no sum over them.
 *
 * Where it is faster and fits, experts_hopper.cu does the same.
 */
#include "tensor/cuda/experts.h"

#include "tensor/cuda/matmul.h"
#include "tensor/cuda/operand.h"

/* Where experts' rows are, of x, y and their gradients alike. */
struct segments {
    const int32_t *offset; /* (E + 1) */
    int n_experts;
};

struct segment {
    int expert; /* -1: none */
    int64_t first, n_rows;
};

KD_FN int64_t first_slot(const segments &at, int e, int tile_rows)
{
    return at.offset[e] / tile_rows + e;
}

/* Whose slot it is; for all threads of the block. */
KD_FN segment segment_of_slot(const segments &at, int64_t slot, int tile_rows)
{
    KD_SHARED(int, found, );
    if (threadIdx.x == 0) {
        found = -1;
    }
    __syncthreads();
    for (int e = static_cast<int>(threadIdx.x); e < at.n_experts; e += KD_TILE_THREADS) {
        if (first_slot(at, e, tile_rows) <= slot && slot < first_slot(at, e + 1, tile_rows)) {
            found = e;
        }
    }
    __syncthreads();
    const int e = found;
    if (e < 0) {
        return {-1, 0, 0};
    }
    return {e, at.offset[e], at.offset[e + 1] - at.offset[e]};
}

template <class T> KD_FN kd_matrix<T> rows_of(const kd_matrix<T> &all, const segment &part)
{
    return {all.data + part.first * all.stride, part.n_rows, all.columns, all.stride, all.vectors};
}

/*
 * Idea: a tile of M rows of one segment by N columns; see tile.h.
 * Formula: c[r] = a[r] op(w[e]) for the rows r of segment e. Forward: op(w) = w^T (W_BY_K); gradient of the
 * input: op(w) = w.
 * Shapes: c (R, columns); a (R, depth); w (E, O, K), all of its rows as one matrix, of which each expert has
 * w_rows.
 * Bytes: a is read for every N columns of c, w[e] for every M rows of its segment, c is written once.
 */
template <bool W_BY_K, class T, class Out>
static __global__ void __launch_bounds__(KD_TILE_THREADS, kd_tile<T>::BLOCKS)
    multiply_rows(kd_result<Out> c,
                  kd_matrix<T> a,
                  kd_matrix<T> w,
                  int64_t w_rows,
                  segments at,
                  unsigned n_column_tiles)
{
    KD_DYN_SHARED(T, shared, 16);
    const int64_t slot = blockIdx.x / n_column_tiles;
    const int64_t column0 = int64_t(blockIdx.x % n_column_tiles) * kd_tile<T>::N;
    const segment part = segment_of_slot(at, slot, kd_tile<T>::M);
    if (part.expert < 0) {
        return;
    }
    const int64_t tile = slot - first_slot(at, part.expert, kd_tile<T>::M);
    if (tile * kd_tile<T>::M >= part.n_rows) {
        return;
    }
    const segment whole = {part.expert, part.expert * w_rows, w_rows};
    const kd_result<Out> rows = {
        c.data + part.first * c.stride, part.n_rows, c.columns, c.stride, c.pairs, false};
    kd_multiply_tile<true, W_BY_K>(shared, rows, rows_of(a, part), rows_of(w, whole), a.columns,
                                   tile * kd_tile<T>::M, column0);
}

/*
 * Idea: a tile of an expert's matrix; the depth is the rows of its segment, none for an expert without rows,
 * whose gradient is then written as 0, or left as it is where gradients are added.
 * Formula: dw[e] = sum over the rows r of segment e of dy[r]^T x[r], written or added to.
 * Shapes: dw (E, O, K) f32, one matrix of E * O rows; dy (R, O); x (R, K).
 * Bytes: dy and x of a segment are read for every N columns and every M rows of dw[e]; dw is written once, and
 * read once where it is added to.
 */
template <class T>
static __global__ void __launch_bounds__(KD_TILE_THREADS, kd_tile<T>::BLOCKS)
    multiply_weights(kd_result<float> dw,
                     kd_matrix<T> dy,
                     kd_matrix<T> x,
                     segments at,
                     unsigned n_row_tiles,
                     unsigned n_column_tiles)
{
    KD_DYN_SHARED(T, shared, 16);
    const unsigned tile = blockIdx.x / n_column_tiles;
    const int e = static_cast<int>(tile / n_row_tiles);
    const segment part = {e, at.offset[e], at.offset[e + 1] - at.offset[e]};
    if (part.n_rows == 0 && dw.accumulate) {
        return;
    }
    const int64_t first = e * dy.columns;
    const kd_result<float> matrix = {
        dw.data + first * dw.stride, dy.columns, dw.columns, dw.stride, dw.pairs, dw.accumulate};
    kd_multiply_tile<false, false>(shared, matrix, rows_of(dy, part), rows_of(x, part), part.n_rows,
                                   int64_t(tile % n_row_tiles) * kd_tile<T>::M,
                                   int64_t(blockIdx.x % n_column_tiles) * kd_tile<T>::N);
}

static segments segments_of(const kd_route *route, kd_tensor w)
{
    KD_CHECK(w.n_dims == 3 && w.dims[0] <= KD_EXPERTS_MAX);
    KD_CHECK(route->offset.dtype == KD_I32);
    KD_CHECK(kd_tensor_elements(route->offset) == w.dims[0] + 1);
    return {kd_cuda_data<const int32_t>(route->offset), static_cast<int>(w.dims[0])};
}

static void check_rows(kd_tensor y, kd_tensor x, kd_tensor w)
{
    KD_CHECK(kd_tensor_rows(y) == kd_tensor_rows(x));
    KD_CHECK(kd_tensor_columns(y) == w.dims[1] && kd_tensor_columns(x) == w.dims[2]);
}

/* Blocks for products of `operands` whose result has the rows and columns of c. */
template <class T> static unsigned slots_for(kd_tensor c, kd_tensor w, unsigned n_column_tiles)
{
    const int64_t n_slots = kd_tensor_rows(c) / kd_tile<T>::M + w.dims[0];
    return kd_cuda_blocks(n_slots * n_column_tiles, 1);
}

template <bool W_BY_K>
static void run_rows(kd_backend *be,
                     const char *what,
                     kd_tensor c,
                     kd_tensor a,
                     kd_tensor w,
                     const kd_route *route)
{
    const segments at = segments_of(route, w);

    KD_CHECK(a.dtype == w.dtype || be->fault != KD_OK);
    if (kd_cuda_grouped_product(be, what, W_BY_K ? KD_CUDA_GROUPED_Y : KD_CUDA_GROUPED_DX, c, a, w,
                                route, false)) {
        return;
    }
    kd_cuda_with_types(w.dtype, c.dtype, [&](auto operand, auto result) {
        using T = decltype(operand);
        using Out = decltype(result);
        const unsigned n_column_tiles = kd_cuda_blocks(kd_tensor_columns(c), kd_tile<T>::N);
        kd_cuda_launch(be, what, multiply_rows<W_BY_K, T, Out>, slots_for<T>(c, w, n_column_tiles),
                       KD_TILE_THREADS, kd_stage<T, true, W_BY_K>::SHARED_BYTES,
                       kd_cuda_result<Out>(c, false), kd_cuda_matrix<T>(a), kd_cuda_matrix<T>(w),
                       w.dims[1], at, n_column_tiles);
    });
}

void kd_cuda_experts(kd_backend *be, kd_tensor y, kd_tensor x, kd_tensor w, const kd_route *route)
{
    check_rows(y, x, w);
    run_rows<true>(be, "experts", y, x, w, route);
}

void kd_cuda_experts_backward_x(kd_backend *be,
                                kd_tensor dx,
                                kd_tensor dy,
                                kd_tensor w,
                                const kd_route *route)
{
    const size_t mark = kd_cuda_scratch_mark(be);

    check_rows(dy, dx, w);
    run_rows<false>(be, "experts_backward_x", dx, kd_cuda_as_compute(be, dy), w, route);
    kd_cuda_scratch_rewind(be, mark);
}

static void run_weights(kd_backend *be,
                        kd_tensor dw,
                        kd_tensor dy,
                        kd_tensor x,
                        const segments &at,
                        bool accumulate)
{
    kd_cuda_with_type(x.dtype, [&](auto operand) {
        using T = decltype(operand);
        const unsigned n_row_tiles = kd_cuda_blocks(dw.dims[1], kd_tile<T>::M);
        const unsigned n_column_tiles = kd_cuda_blocks(dw.dims[2], kd_tile<T>::N);
        kd_cuda_launch(be, "experts_backward_w", multiply_weights<T>,
                       kd_cuda_blocks(dw.dims[0] * n_row_tiles * n_column_tiles, 1),
                       KD_TILE_THREADS, kd_stage<T, false, false>::SHARED_BYTES,
                       kd_cuda_result<float>(dw, accumulate), kd_cuda_matrix<T>(dy),
                       kd_cuda_matrix<T>(x), at, n_row_tiles, n_column_tiles);
    });
}

void kd_cuda_experts_backward_w(kd_backend *be,
                                kd_tensor dw,
                                kd_tensor dy,
                                kd_tensor x,
                                const kd_route *route,
                                bool accumulate)
{
    const size_t mark = kd_cuda_scratch_mark(be);
    const segments at = segments_of(route, dw);

    check_rows(dy, x, dw);
    KD_CHECK(dw.dtype == KD_F32);
    dy = kd_cuda_as_compute(be, dy);
    KD_CHECK(dy.dtype == x.dtype || be->fault != KD_OK);
    if (!kd_cuda_grouped_product(be, "experts_backward_w", KD_CUDA_GROUPED_DW, dw, dy, x, route,
                                 accumulate)) {
        run_weights(be, dw, dy, x, at, accumulate);
    }
    kd_cuda_scratch_rewind(be, mark);
}
