/*
 * attention_mma.h - the two products of attention in bf16 on the tensor cores (mma.sync, f32 sums):
 * scores of rows with rows over W columns, and sums of rows weighted by such scores.
 *
 * 128 threads: a warp has 16 of a block's 64 rows, whose scores stay in its registers and are the
 * left operand of the second product as they stand. Tiles are in shared memory, W = 32, 64 or 128
 * columns and 8 that are not used, so that ldmatrix meets no bank twice; columns from D on and rows
 * that are not there are zeros. Of a 16 x 8 tile of sums a thread has rows lane / 4 (+ 8: [2], [3])
 * and columns lane % 4 * 2 (+ 1).
 */
#ifndef KD_TENSOR_CUDA_ATTENTION_MMA_H
#define KD_TENSOR_CUDA_ATTENTION_MMA_H

#include "tensor/cuda/attention.h"

constexpr int KD_MMA_THREADS = 128;

/* Elements between rows of a tile, and of a tile. */
template <int W> constexpr int KD_MMA_STRIDE = W + 8;
template <int ROWS, int W> constexpr int KD_MMA_TILE = ROWS *KD_MMA_STRIDE<W>;

KD_FN int kd_mma_lane()
{
    return static_cast<int>(threadIdx.x) % 32;
}

/* Of this warp in a block. */
KD_FN int kd_mma_first_row()
{
    return static_cast<int>(threadIdx.x) / 32 * 16;
}

/* Of element i of the thread's part of a 16 x 8 tile; rows count from the block's first. */
KD_FN int kd_mma_row(int i)
{
    return kd_mma_first_row() + kd_mma_lane() / 4 + i / 2 * 8;
}

KD_FN int kd_mma_column(int i)
{
    return kd_mma_lane() % 4 * 2 + i % 2;
}

/* Begins to load n rows of x into a tile; see kd_cp_async_commit(). */
template <int ROWS, int W>
KD_FN void kd_mma_load(__nv_bfloat16 *tile,
                       kd_attention_rows<const __nv_bfloat16> x,
                       int n,
                       const kd_attention_shape &s)
{
    for (int i = static_cast<int>(threadIdx.x); i < ROWS * W / 8; i += KD_MMA_THREADS) {
        const int r = i / (W / 8), c = i % (W / 8) * 8;
        __nv_bfloat16 *to = tile + r * KD_MMA_STRIDE<W> + c;
        if (s.vectors) {
            const bool inside = r < n && c < s.head_dim;
            kd_cp_async16(to, inside ? x.data + r * x.stride + c : x.data, inside ? 16 : 0);
            continue;
        }
        for (int j = 0; j < 8; j++) {
            const bool inside = r < n && c + j < s.head_dim;
            to[j] = inside ? x.data[r * x.stride + c + j] : __float2bfloat16(0.0f);
        }
    }
}

/* scores = x y^T: this warp's 16 rows of x with COLUMNS rows of y, over W columns. */
template <int COLUMNS, int W>
KD_FN void
kd_mma_multiply(float (&scores)[COLUMNS / 8][4], const __nv_bfloat16 *x, const __nv_bfloat16 *y)
{
    const int lane = kd_mma_lane();
    const __nv_bfloat16 *left =
        x + (kd_mma_first_row() + lane % 16) * KD_MMA_STRIDE<W> + lane / 16 * 8;
    const __nv_bfloat16 *right =
        y + (lane / 16 * 8 + lane % 8) * KD_MMA_STRIDE<W> + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) {
        scores[i / 4][i % 4] = 0.0f;
    }
#pragma unroll 2 /* wholly, it takes registers that there are not */
    for (int c = 0; c < W; c += 16) {
        unsigned a[4];
        kd_ldmatrix_x4(a, left + c);
#pragma unroll
        for (int n = 0; n < COLUMNS; n += 16) {
            unsigned b[4];
            kd_ldmatrix_x4(b, right + n * KD_MMA_STRIDE<W> + c);
            kd_mma_m16n8k16(scores[n / 8], a, {b[0], b[1]});
            kd_mma_m16n8k16(scores[n / 8 + 1], a, {b[2], b[3]});
        }
    }
}

/* sums += p y: this warp's 16 rows of p, as multiply leaves them, in bf16; COLUMNS rows of y. */
template <int COLUMNS, int W>
KD_FN void
kd_mma_add(float (&sums)[W / 8][4], const float (&p)[COLUMNS / 8][4], const __nv_bfloat16 *y)
{
    const int lane = kd_mma_lane();
    const __nv_bfloat16 *right = y + lane % 16 * KD_MMA_STRIDE<W> + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < COLUMNS; k += 16) {
        const unsigned a[4] = {kd_pack(p[k / 8][0], p[k / 8][1]), kd_pack(p[k / 8][2], p[k / 8][3]),
                               kd_pack(p[k / 8 + 1][0], p[k / 8 + 1][1]),
                               kd_pack(p[k / 8 + 1][2], p[k / 8 + 1][3])};
#pragma unroll
        for (int n = 0; n < W; n += 16) {
            unsigned b[4];
            kd_ldmatrix_x4_trans(b, right + k * KD_MMA_STRIDE<W> + n);
            kd_mma_m16n8k16(sums[n / 8], a, {b[0], b[1]});
            kd_mma_m16n8k16(sums[n / 8 + 1], a, {b[2], b[3]});
        }
    }
}

template <int W> KD_FN void kd_mma_clear(float (&sums)[W / 8][4])
{
#pragma unroll
    for (int i = 0; i < W / 2; i++) {
        sums[i / 4][i % 4] = 0.0f;
    }
}

/*
 * The sums, times factor[0] in rows lane / 4 and factor[1] in those 8 below, to the first n rows of
 * `to`, by way of this warp's rows of a tile that no other warp reads.
 */
template <int W>
KD_FN void kd_mma_store(kd_attention_rows<__nv_bfloat16> to,
                        __nv_bfloat16 *tile,
                        const float (&sums)[W / 8][4],
                        const float (&factor)[2],
                        int n,
                        const kd_attention_shape &s)
{
    __syncwarp(); /* all lanes have read it */
#pragma unroll
    for (int i = 0; i < W / 2; i++) {
        tile[kd_mma_row(i % 4) * KD_MMA_STRIDE<W> + i / 4 * 8 + kd_mma_column(i % 4)] =
            __float2bfloat16(sums[i / 4][i % 4] * factor[i % 4 / 2]);
    }
    __syncwarp();
    for (int i = kd_mma_lane(); i < 16 * W / 8; i += 32) {
        const int r = kd_mma_first_row() + i / (W / 8), c = i % (W / 8) * 8;
        const __nv_bfloat16 *from = tile + r * KD_MMA_STRIDE<W> + c;
        __nv_bfloat16 *target = to.data + r * to.stride + c;
        if (r < n && s.vectors && c < s.head_dim) {
            kd_store_16(target, kd_load_16(from));
        } else if (r < n) {
            for (int j = 0; j < 8 && c + j < s.head_dim; j++) {
                target[j] = from[j];
            }
        }
    }
}

#endif
