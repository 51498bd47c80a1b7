/*
 * units.cu - what the other kernels here do not use: operands contiguous along M and N, TMA stores, transposed
 * fragments, a ring of blocks, named barriers, masks of part of a warp.
 */
#include "kernels.h"

/* d[64][64] = a[k=16][64]^T b[k=16][64], both MN-major, with the given swizzle; the result leaves by TMA store. */
template <int SWIZZLE>
static __global__ void mn_major(const __grid_constant__ CUtensorMap amap,
                                const __grid_constant__ CUtensorMap bmap,
                                const __grid_constant__ CUtensorMap dmap)
{
    KD_DYN_SHARED(__nv_bfloat16, mem, 1024);
    KD_SHARED(uint64_t, bar, );

    enum { W = 8 << SWIZZLE }; /* columns a tile */

    if (threadIdx.x == 0) {
        kd_mbar_init(&bar, 1);
        kd_fence_mbar_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        kd_mbar_arrive_expect_tx(&bar, 2 * 16 * 64 * 2);
        for (int i = 0; i < 64 / W; i++) {
            kd_tma_load_2d(mem + i * 16 * W, &amap, i * W, 0, &bar);
            kd_tma_load_2d(mem + 1024 + i * 16 * W, &bmap, i * W, 0, &bar);
        }
    }
    kd_mbar_wait(&bar, 0);
    float d[32];
    kd_wgmma_fence();
    unsigned lbo = 16 * W * 2, sbo = 8 * W * 2;
    if (SWIZZLE == KD_SWIZZLE_NONE) {
        lbo = 8 * W * 2;
        sbo = 16 * W * 2;
    } /* their meanings change places */
    kd_wgmma<1, 1>(d, kd_wgmma_desc(mem, lbo, sbo, SWIZZLE),
                   kd_wgmma_desc(mem + 1024, lbo, sbo, SWIZZLE), 0);
    kd_wgmma_commit();
    kd_wgmma_wait<0>();
    kd_wgmma_operand(d);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < 32; i++) {
        int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
        mem[2048 + row * 64 + (col ^ (row % 8) << 3)] = __float2bfloat16(d[i]);
    }
    kd_fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        kd_tma_store_2d(&dmap, 0, 0, mem + 2048);
        kd_tma_commit();
        kd_tma_wait<0>();
    }
}

template <int SWIZZLE>
static cudaError_t mn_major_with(__nv_bfloat16 *d,
                                 const __nv_bfloat16 *a,
                                 const __nv_bfloat16 *b,
                                 int rows,
                                 int cols,
                                 cudaStream_t s)
{
    CUtensorMap am, bm, dm;
    cudaError_t e = kd_tensor_map_2d(&am, a, 16, 64, 64, 16, 8 << SWIZZLE, SWIZZLE);
    if (!e)
        e = kd_tensor_map_2d(&bm, b, 16, 64, 64, 16, 8 << SWIZZLE, SWIZZLE);
    if (!e)
        e = kd_tensor_map_2d(&dm, d, rows, cols, cols, 64, 64, KD_SWIZZLE_128);
    return e ? e : kd_launch(mn_major<SWIZZLE>, 1, 128, 1, 16384, s, am, bm, dm);
}

cudaError_t emu_unit_mn_major(int swizzle,
                              __nv_bfloat16 *d,
                              const __nv_bfloat16 *a,
                              const __nv_bfloat16 *b,
                              int rows,
                              int cols,
                              cudaStream_t s)
{
    switch (swizzle) {
    case KD_SWIZZLE_NONE:
        return mn_major_with<KD_SWIZZLE_NONE>(d, a, b, rows, cols, s);
    case KD_SWIZZLE_32:
        return mn_major_with<KD_SWIZZLE_32>(d, a, b, rows, cols, s);
    case KD_SWIZZLE_64:
        return mn_major_with<KD_SWIZZLE_64>(d, a, b, rows, cols, s);
    default:
        return mn_major_with<KD_SWIZZLE_128>(d, a, b, rows, cols, s);
    }
}

/* d[64][256] = a b over a depth of 64, in boxes of 64 by 128 bytes; both operands BY_K, or both along M and N. */
template <bool BY_K>
static __global__ void
wide(float *d, const __grid_constant__ CUtensorMap amap, const __grid_constant__ CUtensorMap bmap)
{
    KD_DYN_SHARED(__nv_bfloat16, mem, 1024);
    KD_SHARED(uint64_t, bar, );

    enum { BOX = 64 * 64 };

    if (threadIdx.x == 0) {
        kd_mbar_init(&bar, 1);
        kd_fence_mbar_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        kd_mbar_arrive_expect_tx(&bar, 5 * BOX * 2);
        kd_tma_load_2d(mem, &amap, 0, 0, &bar);
        for (int i = 0; i < 4; i++)
            kd_tma_load_2d(mem + (1 + i) * BOX, &bmap, BY_K ? 0 : i * 64, BY_K ? i * 64 : 0, &bar);
    }
    kd_mbar_wait(&bar, 0);
    float sum[128];
    const int step = BY_K ? 16 : 16 * 64; /* elements from 16 to 16 of the depth */
    kd_wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
        kd_wgmma<!BY_K, !BY_K>(sum, kd_wgmma_desc(mem + k * step, BOX * 2, 1024),
                               kd_wgmma_desc(mem + BOX + k * step, BOX * 2, 1024), k);
    kd_wgmma_commit();
    kd_wgmma_wait<0>();
    kd_wgmma_operand(sum);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < 128; i++)
        d[(warp * 16 + lane / 4 + i / 2 % 2 * 8) * 256 + i / 4 * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

cudaError_t
emu_unit_wide(bool by_k, float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, cudaStream_t s)
{
    CUtensorMap am, bm;
    cudaError_t e = kd_tensor_map_2d(&am, a, 64, 64, 64, 64, 64, KD_SWIZZLE_128);
    if (!e)
        e = kd_tensor_map_2d(&bm, b, by_k ? 256 : 64, by_k ? 64 : 256, by_k ? 64 : 256, 64, 64,
                             KD_SWIZZLE_128);
    return e ? e
             : kd_launch(by_k ? wide<true> : wide<false>, 1, 128, 1, 5 * 64 * 64 * 2, s, d, am, bm);
}

/* d[16][16] = a[16][16] b[k=16][16]: b is not K-major, which ldmatrix.trans mends. */
static __global__ void mma_trans(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b)
{
    KD_SHARED(uint4, sa, [32]);
    KD_SHARED(uint4, sb, [32]);
    int lane = threadIdx.x;
    sa[lane] = ((const uint4 *)a)[lane];
    sb[lane] = ((const uint4 *)b)[lane];
    __syncwarp();
    unsigned fa[4], fb[4];
    kd_ldmatrix_x4(fa, &sa[lane % 16 * 2 + lane / 16]);
    kd_ldmatrix_x4_trans(fb, &sb[lane % 16 * 2 + lane / 16]);
    for (int h = 0; h < 2; h++) {
        float acc[4] = {0, 0, 0, 0};
        unsigned bb[2] = {fb[2 * h], fb[2 * h + 1]};
        kd_mma_m16n8k16(acc, fa, bb);
        for (int i = 0; i < 4; i++)
            d[(lane / 4 + i / 2 * 8) * 16 + h * 8 + lane % 4 * 2 + i % 2] = acc[i];
    }
}

cudaError_t
emu_unit_mma_trans(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, cudaStream_t s)
{
    return kd_launch(mma_trans, 1, 32, 1, 0, s, d, a, b);
}

/* A ring: each CTA writes into the next one's shared memory and arrives at its mbarrier; then two
 * groups of warps take turns by named barriers; sub-warp masks, up and down shuffles. */
static __global__ void units(int *out)
{
    KD_SHARED(int, box, [64]);
    KD_SHARED(uint64_t, bar, );
    unsigned rank = kd_cluster_rank(), next = (rank + 1) % kd_cluster_size();
    if (threadIdx.x == 0) {
        kd_mbar_init(&bar, 64);
        kd_fence_mbar_init();
    }
    kd_cluster_sync();
    kd_map_rank(box, next)[threadIdx.x] = rank * 100 + threadIdx.x;
    kd_mbar_arrive_rank(&bar, next);
    kd_mbar_wait(&bar, 0);
    int v = box[63 - threadIdx.x];
    if (threadIdx.x < 32)
        kd_bar_sync(1, 64);
    else
        kd_bar_arrive(1, 64);
    if (threadIdx.x % 32 < 8)
        v += __shfl_down_sync(0xff, v, 1, 4);
    else
        v += __shfl_up_sync(0xffffff00u, v, 2, 8);
    v += __reduce_max_sync(~0u, threadIdx.x) + __popc(__ballot_sync(~0u, threadIdx.x & 1));
    out[blockIdx.x * 64 + threadIdx.x] = v;
    kd_cluster_sync();
}

cudaError_t emu_unit_mixed(int *out, cudaStream_t s)
{
    return kd_launch(units, 8, 64, 4, 0, s, out);
}
