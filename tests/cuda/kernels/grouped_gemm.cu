/*
 * grouped_gemm.cu - TMA, mbarriers and wgmma: one product an expert in one launch; a warp copies, a warpgroup multiplies.
 */
#include "kernels.h"

enum {
    BM = 128,
    BN = 128,
    BK = 64,
    STAGES = 2,
    CONSUMERS = 128,
    THREADS = CONSUMERS + 32,
    TILE = BM * BK
};

static __global__ void __launch_bounds__(THREADS)
    grouped_gemm(__nv_bfloat16 *__restrict__ y,
                 const __grid_constant__ CUtensorMap xmap,
                 const __grid_constant__ CUtensorMap wmap,
                 const int *__restrict__ offset,
                 int experts,
                 int n,
                 int k)
{
    KD_DYN_SHARED(__nv_bfloat16, mem, 1024);
    KD_SHARED(uint64_t, full, [STAGES]);
    KD_SHARED(uint64_t, empty, [STAGES]);
    /* The tiles of an expert are those of its own rows; blocks beyond the last tile have nothing to do. */
    int e = 0, tile = blockIdx.y;
    for (; e < experts; e++) {
        int tiles = (offset[e + 1] - offset[e] + BM - 1) / BM;
        if (tile < tiles)
            break;
        tile -= tiles;
    }
    if (e == experts)
        return; /* the whole block */
    int row0 = offset[e] + tile * BM, row_end = offset[e + 1], col0 = blockIdx.x * BN,
        steps = (k + BK - 1) / BK;

    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; s++) {
            kd_mbar_init(&full[s], 1);
            kd_mbar_init(&empty[s], CONSUMERS / 32);
        }
        kd_fence_mbar_init();
        kd_fence_async();
    }
    __syncthreads();

    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x > CONSUMERS)
            return;
        kd_tma_prefetch(&xmap);
        kd_tma_prefetch(&wmap);
        for (int i = 0; i < steps; i++) {
            int s = i % STAGES;
            kd_mbar_wait(&empty[s], (i / STAGES & 1) ^ 1); /* at once in the first round */
            kd_mbar_arrive_expect_tx(&full[s], 2 * TILE * sizeof(__nv_bfloat16));
            kd_tma_load_2d(mem + s * 2 * TILE, &xmap, i * BK, row0, &full[s]);
            kd_tma_load_2d(mem + s * 2 * TILE + TILE, &wmap, i * BK, e * n + col0, &full[s]);
        }
        return;
    }
    float acc[2][64];
    for (int i = 0; i < steps; i++) {
        int s = i % STAGES;
        const __nv_bfloat16 *tx = mem + s * 2 * TILE, *tw = tx + TILE;
        kd_mbar_wait(&full[s], i / STAGES & 1);
        kd_wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16)
#pragma unroll
            for (int h = 0; h < 2; h++)
                kd_wgmma(acc[h], kd_wgmma_desc(tx + h * 64 * BK + kk, 0, 1024),
                         kd_wgmma_desc(tw + kk, 0, 1024), i || kk);
        kd_wgmma_commit();
        kd_wgmma_wait<0>();
        if (threadIdx.x % 32 == 0)
            kd_mbar_arrive(&empty[s]);
    }
    kd_wgmma_operand(acc[0]);
    kd_wgmma_operand(acc[1]);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 64; i += 2) {
            int row = row0 + h * 64 + warp * 16 + lane / 4 + i / 2 % 2 * 8,
                col = col0 + i / 4 * 8 + lane % 4 * 2;
            if (row < row_end && col < n)
                *(__nv_bfloat162 *)&y[(size_t)row * n + col] =
                    __floats2bfloat162_rn(acc[h][i], acc[h][i + 1]);
        }
}

cudaError_t emu_grouped_gemm(__nv_bfloat16 *y,
                             const __nv_bfloat16 *x,
                             const __nv_bfloat16 *w,
                             const int *offset,
                             int experts,
                             int rows,
                             int n,
                             int k,
                             cudaStream_t s)
{
    CUtensorMap xmap, wmap;
    if (k % 8 || n % 2)
        return cudaErrorInvalidValue;
    if (!rows || !n)
        return cudaSuccess;
    cudaError_t e = kd_tensor_map_2d(&xmap, x, rows, k, k, BM, BK, KD_SWIZZLE_128);
    if (!e)
        e = kd_tensor_map_2d(&wmap, w, (uint64_t)experts * n, k, k, BN, BK, KD_SWIZZLE_128);
    if (!e)
        e = kd_launch(grouped_gemm, dim3((n + BN - 1) / BN, rows / BM + experts), THREADS, 1,
                      STAGES * 2 * TILE * sizeof(__nv_bfloat16), s, y, xmap, wmap, offset, experts,
                      n, k);
    return e;
}
