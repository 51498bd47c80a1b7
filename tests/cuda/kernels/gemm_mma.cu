/*
 * gemm_mma.cu - cp.async in three stages, ldmatrix and mma.sync: a bf16 product, both operands K-major.
 */
#include "kernels.h"

enum {
    BM = 64,
    BN = 64,
    BK = 32,
    STAGES = 3,
    THREADS = 128,
    LD = BK + 8 /* 80 bytes a row: ldmatrix without bank conflicts */
};

static __device__ __forceinline__ void
load_tile(__nv_bfloat16 *dst, const __nv_bfloat16 *src, int row, int rows, int k0, int k)
{
    for (int i = threadIdx.x; i < BM * BK / 8;
         i += THREADS) { /* 16 bytes each; nothing is read outside the matrix */
        int r = i / (BK / 8), c = i % (BK / 8) * 8;
        bool inside = row + r < rows && k0 + c < k;
        kd_cp_async16(dst + r * LD + c, inside ? src + (size_t)(row + r) * k + k0 + c : src,
                      inside ? 16 : 0);
    }
}

static __global__ void __launch_bounds__(THREADS) gemm(float *__restrict__ c,
                                                       const __nv_bfloat16 *__restrict__ a,
                                                       const __nv_bfloat16 *__restrict__ b,
                                                       int m,
                                                       int n,
                                                       int k)
{
    KD_SHARED(__nv_bfloat16, sa_mem, [STAGES * BM * LD + 8]);
    KD_SHARED(__nv_bfloat16, sb_mem, [STAGES * BN * LD + 8]);
    __nv_bfloat16 *sa = sa_mem + (16 - kd_smem(sa_mem) % 16) % 16 / 2,
                  *sb = sb_mem + (16 - kd_smem(sb_mem) % 16) % 16 / 2;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row0 = blockIdx.y * BM,
        col0 = blockIdx.x * BN;
    int wm = warp / 2 * 32, wn = warp % 2 * 32, steps = (k + BK - 1) / BK;
    float acc[2][4][4] = {};

    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) {
            load_tile(sa + s * BM * LD, a, row0, m, s * BK, k);
            load_tile(sb + s * BN * LD, b, col0, n, s * BK, k);
        }
        kd_cp_async_commit();
    }
    for (int i = 0; i < steps; i++) {
        kd_cp_async_wait<STAGES - 2>();
        __syncthreads(); /* stage i has come for all threads, and all are done with stage i - 1 */
        int next = i + STAGES - 1;
        if (next < steps) {
            load_tile(sa + next % STAGES * BM * LD, a, row0, m, next * BK, k);
            load_tile(sb + next % STAGES * BN * LD, b, col0, n, next * BK, k);
        }
        kd_cp_async_commit();
        const __nv_bfloat16 *ta = sa + i % STAGES * BM * LD, *tb = sb + i % STAGES * BN * LD;
#pragma unroll
        for (int kk = 0; kk < BK; kk += 16) {
            unsigned fa[2][4], fb[2][4];
#pragma unroll
            for (int j = 0; j < 2; j++) {
                kd_ldmatrix_x4(fa[j], ta + (wm + j * 16 + lane % 16) * LD + kk + lane / 16 * 8);
                kd_ldmatrix_x4(fb[j], tb + (wn + j * 16 + lane / 16 * 8 + lane % 8) * LD + kk +
                                          lane / 8 % 2 * 8);
            }
#pragma unroll
            for (int x = 0; x < 2; x++)
#pragma unroll
                for (int y = 0; y < 4; y++) {
                    unsigned bb[2] = {fb[y / 2][y % 2 * 2], fb[y / 2][y % 2 * 2 + 1]};
                    kd_mma_m16n8k16(acc[x][y], fa[x], bb);
                }
        }
    }
#pragma unroll
    for (int x = 0; x < 2; x++)
#pragma unroll
        for (int y = 0; y < 4; y++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = row0 + wm + x * 16 + lane / 4 + i / 2 * 8,
                    col = col0 + wn + y * 8 + lane % 4 * 2 + i % 2;
                if (row < m && col < n)
                    c[(size_t)row * n + col] = acc[x][y][i];
            }
}

cudaError_t emu_gemm(float *c,
                     const __nv_bfloat16 *a,
                     const __nv_bfloat16 *b,
                     int m,
                     int n,
                     int k,
                     cudaStream_t s)
{
    if (k % 8)
        return cudaErrorInvalidValue;
    return m && n ? kd_launch(gemm, dim3((n + BN - 1) / BN, (m + BM - 1) / BM), THREADS, 1, 0, s, c,
                              a, b, m, n, k)
                  : cudaSuccess;
}
