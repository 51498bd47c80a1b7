/*
 * hopper.h - the units that C++ has no words for: cp.async, ldmatrix and mma.sync (sm_80); clusters, mbarrier,
 * TMA and wgmma (sm_90a). Each is a small function around its PTX; the emulator has functions of the same
 * names. device.h includes it.
 */
#ifndef KD_TENSOR_CUDA_HOPPER_H
#define KD_TENSOR_CUDA_HOPPER_H

/* Whether this pass of the compiler is for a device that has clusters; kernels of clusters are empty in the others. */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define KD_HAS_CLUSTERS 0
#else
#define KD_HAS_CLUSTERS 1
#endif

/* Whether code for wgmma and setmaxnreg, which sm_90a has and nothing else, can be made in this pass of the compiler.
 * Kernels trap in the others. */
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KD_HAS_WGMMA 0
#else
#define KD_HAS_WGMMA 1
#endif

#ifdef __CUDACC__
#include <cuda.h>

KD_FN unsigned kd_smem(const void *p)
{
    return (unsigned)__cvta_generic_to_shared(p);
}

KD_FN unsigned kd_cluster_rank()
{
    unsigned r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

KD_FN unsigned kd_cluster_size()
{
    unsigned r;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
    return r;
}

KD_FN void kd_cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

KD_FN void kd_cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* The variable of the same name in the shared memory of another CTA of the cluster. */
template <class T> KD_FN T *kd_map_rank(T *p, unsigned rank)
{
    uint64_t r;
    asm("mapa.u64 %0, %1, %2;" : "=l"(r) : "l"(p), "r"(rank));
    return (T *)r;
}

KD_FN void kd_bar_sync(unsigned id, unsigned threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

KD_FN void kd_bar_arrive(unsigned id, unsigned threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* 16 bytes to shared memory, the first src_bytes from global memory and the rest zero. */
KD_FN void kd_cp_async16(void *dst, const void *src, unsigned src_bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(kd_smem(dst)), "l"(src),
                 "r"(src_bytes)
                 : "memory");
}

KD_FN void kd_cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> KD_FN void kd_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

KD_FN void kd_ldmatrix_x4(unsigned (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kd_smem(row))
                 : "memory");
}

KD_FN void kd_ldmatrix_x4_trans(unsigned (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(kd_smem(row))
                 : "memory");
}

KD_FN void
kd_mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) /* d += a b */
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

KD_FN void kd_mbar_init(uint64_t *bar, unsigned count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(kd_smem(bar)), "r"(count)
                 : "memory");
}

KD_FN void kd_mbar_arrive(uint64_t *bar)
{
    asm volatile("{\n.reg .b64 s;\nmbarrier.arrive.shared::cta.b64 s, [%0];\n}" ::"r"(kd_smem(bar))
                 : "memory");
}

KD_FN void kd_mbar_arrive_rank(uint64_t *bar, unsigned rank)
{
    asm volatile(
        "{\n.reg .b32 r;\nmapa.shared::cluster.u32 r, %0, %1;\n"
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [r];\n}" ::"r"(kd_smem(bar)),
        "r"(rank)
        : "memory");
}

KD_FN void kd_mbar_arrive_expect_tx(uint64_t *bar, unsigned bytes)
{
    asm volatile("{\n.reg .b64 s;\nmbarrier.arrive.expect_tx.shared::cta.b64 s, [%0], %1;\n}" ::"r"(
                     kd_smem(bar)),
                 "r"(bytes)
                 : "memory");
}

KD_FN bool kd_mbar_try_wait(uint64_t *bar, unsigned parity) /* may return false early: loop */
{
    unsigned ok;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], "
                 "%2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(ok)
                 : "r"(kd_smem(bar)), "r"(parity)
                 : "memory");
    return ok;
}

KD_FN void kd_mbar_wait(uint64_t *bar, unsigned parity)
{
    while (!kd_mbar_try_wait(bar, parity)) {
    }
}

KD_FN void kd_fence_mbar_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Between ordinary writes to shared memory and TMA or wgmma reading them. */
KD_FN void kd_fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

enum {
    KD_SWIZZLE_NONE = CU_TENSOR_MAP_SWIZZLE_NONE,
    KD_SWIZZLE_32 = CU_TENSOR_MAP_SWIZZLE_32B,
    KD_SWIZZLE_64 = CU_TENSOR_MAP_SWIZZLE_64B,
    KD_SWIZZLE_128 = CU_TENSOR_MAP_SWIZZLE_128B
};

/* A bf16 matrix of rows x cols, ld elements from row to row; tiles of box_rows x box_cols. */
static inline cudaError_t kd_tensor_map_2d(CUtensorMap *map,
                                           const void *base,
                                           uint64_t rows,
                                           uint64_t cols,
                                           uint64_t ld,
                                           unsigned box_rows,
                                           unsigned box_cols,
                                           int swizzle)
{
    typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                               const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                               const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                               CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    void *fn = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                         cudaEnableDefault, &found))
        return e;
    if (found != cudaDriverEntryPointSuccess)
        return cudaErrorNotSupported;
    cuuint64_t dim[2] = {cols, rows}, stride[1] = {ld * 2};
    cuuint32_t box[2] = {box_cols, box_rows}, step[2] = {1, 1};
    return ((Encode)fn)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void *>(base), dim,
                        stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        (CUtensorMapSwizzle)swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
               ? cudaErrorInvalidValue
               : cudaSuccess;
}

KD_FN void kd_tma_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

KD_FN void kd_tma_load_2d(void *dst, const CUtensorMap *map, int col, int row, uint64_t *bar)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(kd_smem(dst)),
                 "l"(map), "r"(col), "r"(row), "r"(kd_smem(bar))
                 : "memory");
}

KD_FN void kd_tma_store_2d(const CUtensorMap *map, int col, int row, const void *src)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
            map),
        "r"(col), "r"(row), "r"(kd_smem(src))
        : "memory");
}

KD_FN void kd_tma_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

template <int N> KD_FN void kd_tma_wait()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

KD_FN void kd_wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

KD_FN void kd_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Stands between the last wait and the first use of d, lest the compiler move the use up. */
template <int R> KD_FN void kd_wgmma_operand(float (&d)[R])
{
#pragma unroll
    for (int i = 0; i < R; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> KD_FN void kd_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

#define KD_F8(i)                                                                                   \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),    \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define KD_F32(i) KD_F8(i), KD_F8(i + 8), KD_F8(i + 16), KD_F8(i + 24)

/* TA, TB: 0 for a K-major operand, 1 for one contiguous along M or N. */
template <int TA = 0, int TB = 0>
KD_FN void kd_wgmma(float (&d)[32], uint64_t a, uint64_t b, int scale_d)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, "
                 "0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
                 "}, %32, %33, p, 1, 1, %35, %36;\n}"
                 : KD_F32(0)
                 : "l"(a), "l"(b), "r"(scale_d), "n"(TA), "n"(TB));
}

template <int TA = 0, int TB = 0>
KD_FN void kd_wgmma(float (&d)[64], uint64_t a, uint64_t b, int scale_d)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, "
                 "0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
                 "}, %64, %65, p, 1, 1, %67, %68;\n}"
                 : KD_F32(0), KD_F32(32)
                 : "l"(a), "l"(b), "r"(scale_d), "n"(TA), "n"(TB));
}

template <int TA = 0, int TB = 0>
KD_FN void kd_wgmma(float (&d)[128], uint64_t a, uint64_t b, int scale_d)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, "
                 "0;\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
                 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
                 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
                 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"
                 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
                 "}, %128, %129, p, 1, 1, %131, %132;\n}"
                 : KD_F32(0), KD_F32(32), KD_F32(64), KD_F32(96)
                 : "l"(a), "l"(b), "r"(scale_d), "n"(TA), "n"(TB));
}

#undef KD_F8
#undef KD_F32

/* What each thread of the calling warpgroup, all of which come, may use of registers from here on. */
template <int N> KD_FN void kd_setmaxnreg_inc()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "as PTX has it");
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> KD_FN void kd_setmaxnreg_dec()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "as PTX has it");
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
#endif

static __device__ __forceinline__ void kd_cluster_sync()
{
    kd_cluster_arrive();
    kd_cluster_wait();
}

/* Descriptor of a wgmma operand, by default with 128-byte swizzle; lbo and sbo in bytes.  K-major: sbo
 * from one group of 8 rows to the next, lbo unused.  MN-major: lbo from 64 to 64 (with a swizzle of
 * 64 bytes 32, of 32 bytes 16) along MN, sbo from 8 to 8 along K. */
static __device__ __forceinline__ uint64_t kd_wgmma_desc(const void *tile,
                                                         unsigned lbo,
                                                         unsigned sbo,
                                                         int swizzle = KD_SWIZZLE_128)
{
    return (uint64_t)(swizzle ? 4 - swizzle : 0) << 62 | (uint64_t)(sbo >> 4) << 32 |
           (uint64_t)(lbo >> 4) << 16 | (kd_smem(tile) & 0x3ffff) >> 4;
}

#endif
