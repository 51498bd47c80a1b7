/*
 * tile.h - one tile of a matrix product by one block of threads, for kernels.
 *
 * Idea: c (M, N) = op(a) op(b) is cut into tiles. A block walks along the depth K in steps; asynchronous
 * copies bring the steps ahead into shared memory while the step that is there is multiplied: bf16 by the
 * matrix units with f32 sums, f32 by plain multiply-adds (no TF32). Sums run along K in one fixed order.
 *
 * An operand is stored BY_K (a row for each row or column of c, K along it) or not (a row for each k): no
 * transposed copy is made, the matrix units' loads transpose. Rows may have any stride and any alignment:
 * 16 bytes at once where rows are aligned, elements otherwise. What lies outside of a matrix counts as 0 and
 * is never read, so depths and widths are whatever they are.
 *
 * Bytes moved: a tile reads (M_TILE + N_TILE) * K elements and writes M_TILE * N_TILE; through the L2 cache,
 * where neighbours find the same rows.
 */
#ifndef KD_TENSOR_CUDA_TILE_H
#define KD_TENSOR_CUDA_TILE_H

#include "tensor/cuda/device.h"

/* An operand as it is stored. */
template <class T> struct kd_matrix {
    const T *data;
    int64_t rows, columns, stride; /* elements from row to row                 */
    bool vectors;                  /* every row begins at a multiple of 16 bytes */
};

/* What a product writes, or adds to. */
template <class T> struct kd_result {
    T *data;
    int64_t rows, columns, stride;
    bool pairs; /* two elements of an even column on may be moved at once */
    bool accumulate;
};

/* Sizes for one element type. Rows of a tile in shared memory are 16 bytes longer than their content, so that
 * neither the matrix units' loads nor ours meet in one bank. */
template <class T> struct kd_tile;

template <> struct kd_tile<__nv_bfloat16> {
    static constexpr int M = 128, N = 128, K = 32, STAGES = 3, BLOCKS = 2;
};

template <> struct kd_tile<float> {
    static constexpr int M = 64, N = 64, K = 16, STAGES = 3, BLOCKS = 2;
};

/* Of a block that makes a tile of any type: eight warps. */
static constexpr int KD_TILE_THREADS = 256;

/* One operand's part of a step in shared memory: MN rows or columns of c. */
template <class T, int MN, bool BY_K> struct kd_box {
    static constexpr int ROWS = BY_K ? MN : kd_tile<T>::K, COLUMNS = BY_K ? kd_tile<T>::K : MN;
    static constexpr int STRIDE = COLUMNS + KD_VECTOR<T>, SIZE = ROWS * STRIDE;
};

/* Both operands' parts. */
template <class T, bool A_BY_K, bool B_BY_K> struct kd_stage {
    using a_box = kd_box<T, kd_tile<T>::M, A_BY_K>;
    using b_box = kd_box<T, kd_tile<T>::N, B_BY_K>;
    static constexpr int SIZE = a_box::SIZE + b_box::SIZE;
    static constexpr size_t SHARED_BYTES = sizeof(T) * kd_tile<T>::STAGES * SIZE; /* of a block */
};

/* ---- from global to shared memory ---- */

/* 16 bytes of a row, of which n elements are there and the others become 0. */
template <class T> KD_FN void kd_load_part(T *to, const T *from, int n, bool vectors)
{
    if (vectors) {
        kd_cp_async16(to, from, static_cast<unsigned>(n * sizeof(T)));
        return;
    }
    for (int i = 0; i < KD_VECTOR<T>; i++) {
        kd_store(to + i, i < n ? kd_load(from + i) : 0.0f);
    }
}

/* The box of the matrix whose first element is (row0, column0). */
template <class Box, class T>
KD_FN void kd_load_box(T *box, const kd_matrix<T> &from, int64_t row0, int64_t column0)
{
    constexpr int PART = KD_VECTOR<T>, PARTS = Box::COLUMNS / PART;

    for (int i = static_cast<int>(threadIdx.x); i < Box::ROWS * PARTS; i += KD_TILE_THREADS) {
        const int row = i / PARTS, column = i % PARTS * PART;
        const int64_t left = from.columns - column0 - column;
        const bool inside = row0 + row < from.rows && left > 0;
        const T *at = from.data + (row0 + row) * from.stride + column0 + column;
        const int n = !inside ? 0 : left < PART ? static_cast<int>(left) : PART;
        kd_load_part(box + row * Box::STRIDE + column, inside ? at : from.data, n, from.vectors);
    }
}

template <class T, bool A_BY_K, bool B_BY_K>
KD_FN void kd_load_stage(T *stage,
                         const kd_matrix<T> &a,
                         const kd_matrix<T> &b,
                         int64_t row0,
                         int64_t column0,
                         int64_t k0)
{
    using S = kd_stage<T, A_BY_K, B_BY_K>;

    kd_load_box<typename S::a_box>(stage, a, A_BY_K ? row0 : k0, A_BY_K ? k0 : row0);
    kd_load_box<typename S::b_box>(stage + S::a_box::SIZE, b, B_BY_K ? column0 : k0,
                                   B_BY_K ? k0 : column0);
}

/* ---- sums of a thread ---- */

/* Writes two neighbours at an even place, or adds to them. */
KD_FN void kd_move_pair(float *at, float first, float second, bool accumulate)
{
    float2 *pair = reinterpret_cast<float2 *>(at);
    const float2 old = accumulate ? *pair : make_float2(0.0f, 0.0f);
    *pair = make_float2(old.x + first, old.y + second);
}

KD_FN void kd_move_pair(__nv_bfloat16 *at, float first, float second, bool accumulate)
{
    unsigned *pair = reinterpret_cast<unsigned *>(at);
    float old[2] = {0.0f, 0.0f};
    if (accumulate) {
        kd_unpack(old, *pair);
    }
    *pair = kd_pack(old[0] + first, old[1] + second);
}

/* Two elements of a row of c, the first in an even column of the tile; those beyond it are dropped. */
template <class T>
KD_FN void
kd_put_pair(const kd_result<T> &c, int64_t row, int64_t column, float first, float second)
{
    T *at = c.data + row * c.stride + column;

    if (row >= c.rows || column >= c.columns) {
        return;
    }
    if (c.pairs && column + 1 < c.columns) {
        kd_move_pair(at, first, second, c.accumulate);
        return;
    }
    kd_store(at, c.accumulate ? kd_load(at) + first : first);
    if (column + 1 < c.columns) {
        kd_store(at + 1, c.accumulate ? kd_load(at + 1) + second : second);
    }
}

/* What each thread keeps of a tile, and how a step is added to it. */
template <class T> struct kd_sums;

/* Warps stand 4 by 2, each with 32 by 64 elements of c: 2 by 8 products of the matrix units. */
template <> struct kd_sums<__nv_bfloat16> {
    float sum[2][8][4] = {};

    static __device__ __forceinline__ int first_row()
    {
        return static_cast<int>(threadIdx.x) / 64 * 32;
    }

    static __device__ __forceinline__ int first_column()
    {
        return static_cast<int>(threadIdx.x) / 32 % 2 * 64;
    }

    /* 16 rows of op(a) by 16 k. */
    template <bool BY_K, class Box>
    static __device__ __forceinline__ void
    load_a(unsigned (&part)[4], const __nv_bfloat16 *a, int row, int k)
    {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        if constexpr (BY_K) {
            kd_ldmatrix_x4(part, a + (row + lane % 16) * Box::STRIDE + k + lane / 16 * 8);
        } else {
            kd_ldmatrix_x4_trans(part, a + (k + lane / 16 * 8 + lane % 8) * Box::STRIDE + row +
                                           lane / 8 % 2 * 8);
        }
    }

    /* 16 k of op(b) by 16 columns: two operands of the matrix units, one behind the other. */
    template <bool BY_K, class Box>
    static __device__ __forceinline__ void
    load_b(unsigned (&part)[4], const __nv_bfloat16 *b, int column, int k)
    {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        if constexpr (BY_K) {
            kd_ldmatrix_x4(part, b + (column + lane / 16 * 8 + lane % 8) * Box::STRIDE + k +
                                     lane / 8 % 2 * 8);
        } else {
            kd_ldmatrix_x4_trans(part, b + (k + lane % 16) * Box::STRIDE + column + lane / 16 * 8);
        }
    }

    template <bool A_BY_K, bool B_BY_K>
    __device__ __forceinline__ void add(const __nv_bfloat16 *stage)
    {
        using S = kd_stage<__nv_bfloat16, A_BY_K, B_BY_K>;
        const __nv_bfloat16 *b = stage + S::a_box::SIZE;
#pragma unroll
        for (int k = 0; k < kd_tile<__nv_bfloat16>::K; k += 16) {
            unsigned rows[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_a<A_BY_K, typename S::a_box>(rows[i], stage, first_row() + i * 16, k);
            }
#pragma unroll
            for (int j = 0; j < 8; j += 2) {
                unsigned two[4];
                load_b<B_BY_K, typename S::b_box>(two, b, first_column() + j * 8, k);
                const unsigned left[2] = {two[0], two[1]}, right[2] = {two[2], two[3]};
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    kd_mma_m16n8k16(sum[i][j], rows[i], left);
                    kd_mma_m16n8k16(sum[i][j + 1], rows[i], right);
                }
            }
        }
    }

    template <class Out>
    __device__ __forceinline__ void
    put(const kd_result<Out> &c, int64_t row0, int64_t column0) const
    {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const int64_t row = row0 + first_row() + i * 16 + lane / 4;
                const int64_t column = column0 + first_column() + j * 8 + lane % 4 * 2;
                kd_put_pair(c, row, column, sum[i][j][0], sum[i][j][1]);
                kd_put_pair(c, row + 8, column, sum[i][j][2], sum[i][j][3]);
            }
        }
    }
};

/* Threads stand 16 by 16, each with 4 rows, 16 apart, of 2 pairs of columns, 32 apart. */
template <> struct kd_sums<float> {
    float sum[4][4] = {};

    static __device__ __forceinline__ int first_row()
    {
        return static_cast<int>(threadIdx.x) / 16;
    }

    static __device__ __forceinline__ int column(int j)
    {
        return static_cast<int>(threadIdx.x) % 16 * 2 + j / 2 * 32 + j % 2;
    }

    template <bool A_BY_K, bool B_BY_K> __device__ __forceinline__ void add(const float *stage)
    {
        using S = kd_stage<float, A_BY_K, B_BY_K>;
        const float *b = stage + S::a_box::SIZE;
#pragma unroll
        for (int k = 0; k < kd_tile<float>::K; k++) {
            float x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int m = first_row() + i * 16, n = column(i);
                x[i] = stage[A_BY_K ? m * S::a_box::STRIDE + k : k * S::a_box::STRIDE + m];
                y[i] = b[B_BY_K ? n * S::b_box::STRIDE + k : k * S::b_box::STRIDE + n];
            }
#pragma unroll
            for (int i = 0; i < 16; i++) {
                sum[i / 4][i % 4] = fmaf(x[i / 4], y[i % 4], sum[i / 4][i % 4]);
            }
        }
    }

    template <class Out>
    __device__ __forceinline__ void
    put(const kd_result<Out> &c, int64_t row0, int64_t column0) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                kd_put_pair(c, row0 + first_row() + i * 16, column0 + column(j), sum[i][j],
                            sum[i][j + 1]);
            }
        }
    }
};

/* ---- a tile ---- */

/*
 * The tile of c that begins at (row0, column0), by all KD_TILE_THREADS threads of a block, which have
 * kd_stage::SHARED_BYTES of shared memory, aligned to 16 bytes. op(a) is (c.rows, depth), op(b) (depth,
 * c.columns). Once in a block: nobody waits at the end for those who still read shared memory.
 */
template <bool A_BY_K, bool B_BY_K, class T, class Out>
KD_FN void kd_multiply_tile(T *shared,
                            const kd_result<Out> &c,
                            const kd_matrix<T> &a,
                            const kd_matrix<T> &b,
                            int64_t depth,
                            int64_t row0,
                            int64_t column0)
{
    using S = kd_stage<T, A_BY_K, B_BY_K>;
    constexpr int K = kd_tile<T>::K, AHEAD = kd_tile<T>::STAGES - 1;
    const int n_steps = static_cast<int>((depth + K - 1) / K);
    const bool works = row0 + kd_sums<T>::first_row() < c.rows; /* else its rows are beyond */
    kd_sums<T> sums;

    for (int i = -AHEAD; i < n_steps; i++) {
        if (i >= 0) {
            kd_cp_async_wait<AHEAD - 1>();
            __syncthreads(); /* step i has come, and all are done with the one before */
        }
        const int next = i + AHEAD;
        if (next < n_steps) {
            kd_load_stage<T, A_BY_K, B_BY_K>(shared + next % (AHEAD + 1) * S::SIZE, a, b, row0,
                                             column0, int64_t(next) * K);
        }
        kd_cp_async_commit();
        if (i >= 0 && works) {
            sums.template add<A_BY_K, B_BY_K>(shared + i % (AHEAD + 1) * S::SIZE);
        }
    }
    sums.put(c, row0, column0);
}

#endif
