/*
 * plain_product.cu - a dense product by the plain kernel of tile.h, for what the library does not take.
 */
#include "tensor/cuda/plain_product.h"

#include "tensor/cuda/operand.h"

/*
 * Idea: a tile of c for each block; see tile.h, also for the bytes moved.
 * Formula: c = op(a) op(b), written or added to.
 * Shapes: c (M, N); a (M, K) if A_BY_K, else (K, M); b (N, K) if B_BY_K, else (K, N).
 */
template <bool A_BY_K, bool B_BY_K, class T, class Out>
static __global__ void __launch_bounds__(KD_TILE_THREADS, kd_tile<T>::BLOCKS)
    multiply(kd_result<Out> c,
             kd_matrix<T> a,
             kd_matrix<T> b,
             int64_t depth,
             unsigned n_column_tiles)
{
    KD_DYN_SHARED(T, shared, 16);
    kd_multiply_tile<A_BY_K, B_BY_K>(shared, c, a, b, depth,
                                     int64_t(blockIdx.x / n_column_tiles) * kd_tile<T>::M,
                                     int64_t(blockIdx.x % n_column_tiles) * kd_tile<T>::N);
}

template <bool A_BY_K, bool B_BY_K> static void run(kd_backend *be, const kd_product *p)
{
    const int64_t depth = A_BY_K ? kd_tensor_columns(p->a) : kd_tensor_rows(p->a);

    kd_cuda_with_types(p->a.dtype, p->c.dtype, [&](auto operand, auto result) {
        using T = decltype(operand);
        using Out = decltype(result);
        const unsigned n_row_tiles = kd_cuda_blocks(kd_tensor_rows(p->c), kd_tile<T>::M);
        const unsigned n_column_tiles = kd_cuda_blocks(kd_tensor_columns(p->c), kd_tile<T>::N);
        kd_cuda_launch(be, "a product", multiply<A_BY_K, B_BY_K, T, Out>,
                       kd_cuda_blocks(int64_t(n_row_tiles) * n_column_tiles, 1), KD_TILE_THREADS,
                       kd_stage<T, A_BY_K, B_BY_K>::SHARED_BYTES,
                       kd_cuda_result<Out>(p->c, p->accumulate), kd_cuda_matrix<T>(p->a),
                       kd_cuda_matrix<T>(p->b), depth, n_column_tiles);
    });
}

void kd_cuda_plain_product(kd_backend *be, const kd_product *p)
{
    if (p->trans_a) {
        p->trans_b ? run<false, true>(be, p) : run<false, false>(be, p);
    } else {
        p->trans_b ? run<true, true>(be, p) : run<true, false>(be, p);
    }
}
