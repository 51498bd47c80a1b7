/*
 * attention_plain.h - the two products of attention by plain multiplications in f32, for both
 * dtypes and any head_dim: 64 x 64 scores of rows with rows over D, and sums of 64 rows weighted by
 * such a tile.
 *
 * 256 threads; thread (ty, tx) of 16 x 16 holds rows ty + 16 i and columns tx + 16 j, so what a row
 * needs stands in 16 lanes of one warp. D comes through shared memory in slices of 32 columns, as
 * f32. Sums have at most 128 columns; wider heads are computed once more for each 128 of them.
 */
#ifndef KD_TENSOR_CUDA_ATTENTION_PLAIN_H
#define KD_TENSOR_CUDA_ATTENTION_PLAIN_H

#include "tensor/cuda/attention.h"

constexpr int KD_PLAIN_THREADS = 256;
constexpr int KD_PLAIN_SLICE = 32; /* columns at a time */
constexpr int KD_PLAIN_SLICES = 4; /* of sums           */
constexpr int KD_PLAIN_COLUMNS = KD_PLAIN_SLICE * KD_PLAIN_SLICES;

/* In shared memory; a column more than is used, so that rows begin in other banks. */
struct kd_plain_tiles {
    float left[KD_ATTENTION_ROWS][KD_PLAIN_SLICE + 1];
    float right[KD_ATTENTION_ROWS][KD_PLAIN_SLICE + 1];
    float weights[KD_ATTENTION_ROWS][KD_ATTENTION_ROWS + 1];
};

typedef float kd_plain_scores[4][4];
typedef float kd_plain_sums[KD_PLAIN_SLICES][4][2];

KD_FN int kd_plain_row(int i)
{
    return static_cast<int>(threadIdx.x) / 16 + 16 * i;
}

KD_FN int kd_plain_column(int j)
{
    return static_cast<int>(threadIdx.x) % 16 + 16 * j;
}

/* Blocks of the grid's second dimension. */
static inline unsigned kd_plain_passes(int64_t head_dim)
{
    return kd_cuda_blocks(head_dim, KD_PLAIN_COLUMNS);
}

/* Columns from `first` on of n rows of x; zeros in rows behind them and columns from D on. */
template <class T>
KD_FN void kd_plain_load(float (*to)[KD_PLAIN_SLICE + 1],
                         kd_attention_rows<T> x,
                         int n,
                         int first,
                         int head_dim)
{
    const int c = static_cast<int>(threadIdx.x) % 32;
    for (int r = static_cast<int>(threadIdx.x) / 32; r < KD_ATTENTION_ROWS;
         r += KD_PLAIN_THREADS / 32) {
        const bool inside = r < n && first + c < head_dim;
        to[r][c] = inside ? kd_load(x.data + r * x.stride + first + c) : 0.0f;
    }
}

/* scores = x y^T, of n_x and n_y rows of D columns; 0 behind them. */
template <class T>
KD_FN void kd_plain_multiply(kd_plain_scores &scores,
                             kd_plain_tiles &tiles,
                             kd_attention_rows<T> x,
                             int n_x,
                             kd_attention_rows<T> y,
                             int n_y,
                             int head_dim)
{
    for (int i = 0; i < 16; i++) {
        scores[i / 4][i % 4] = 0.0f;
    }
    for (int first = 0; first < head_dim; first += KD_PLAIN_SLICE) {
        __syncthreads(); /* nobody reads the slices of before */
        kd_plain_load(tiles.left, x, n_x, first, head_dim);
        kd_plain_load(tiles.right, y, n_y, first, head_dim);
        __syncthreads();
        const int n_columns = min(KD_PLAIN_SLICE, head_dim - first);
        for (int c = 0; c < n_columns; c++) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
                scores[i / 4][i % 4] +=
                    tiles.left[kd_plain_row(i / 4)][c] * tiles.right[kd_plain_column(i % 4)][c];
            }
        }
    }
}

/* sums += weights x, each thread having its own 4 x 4 of the (64, 64) weights; n rows of x, columns
 * from `first` on. */
template <class T>
KD_FN void kd_plain_add(kd_plain_sums &sums,
                        kd_plain_tiles &tiles,
                        const kd_plain_scores &weights,
                        kd_attention_rows<T> x,
                        int n,
                        int first,
                        int head_dim)
{
    __syncthreads(); /* nobody reads the weights of before */
    for (int i = 0; i < 16; i++) {
        tiles.weights[kd_plain_row(i / 4)][kd_plain_column(i % 4)] = weights[i / 4][i % 4];
    }
#pragma unroll
    for (int slice = 0; slice < KD_PLAIN_SLICES; slice++) {
        if (first + slice * KD_PLAIN_SLICE < head_dim) {
            __syncthreads(); /* weights are there; nobody reads the slice of before */
            kd_plain_load(tiles.right, x, n, first + slice * KD_PLAIN_SLICE, head_dim);
            __syncthreads();
            for (int k = 0; k < KD_ATTENTION_ROWS; k++) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    sums[slice][i / 2][i % 2] += tiles.weights[kd_plain_row(i / 2)][k] *
                                                 tiles.right[k][kd_plain_column(i % 2)];
                }
            }
        }
    }
}

/* Rows i of the sums, times factor[i], to the first n rows of `to`, columns from `first` on. */
template <class T>
KD_FN void kd_plain_store(kd_attention_rows<T> to,
                          const kd_plain_sums &sums,
                          const float (&factor)[4],
                          int n,
                          int first,
                          int head_dim)
{
#pragma unroll
    for (int at = 0; at < KD_PLAIN_SLICES * 8; at++) {
        const int slice = at / 8, i = at % 8 / 2, j = at % 2;
        const int column = first + slice * KD_PLAIN_SLICE + kd_plain_column(j);
        if (kd_plain_row(i) < n && column < head_dim) {
            kd_store(to.data + kd_plain_row(i) * to.stride + column, sums[slice][i][j] * factor[i]);
        }
    }
}

#endif
