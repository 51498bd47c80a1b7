/*
 * cuda_units.h - the units of Ampere and Hopper: clusters, named barriers, cp.async, ldmatrix, mma, mbarrier,
 * TMA, wgmma. The names are those of the PTX wrappers in tensor/cuda/hopper.h, where each is described.
 */
#ifndef KD_CUDA_HOST_UNITS_H
#define KD_CUDA_HOST_UNITS_H

#include "cuda_runtime.h"

/* The address as kernels' shared-memory instructions take it: rank << 24 | offset in the arena. */
unsigned kd_smem(const void *p);

static inline unsigned kd_cluster_rank()
{
    return kd_host::self->cluster_rank;
}

static inline unsigned kd_cluster_size()
{
    return kd_host::self->cluster_size;
}

void kd_cluster_arrive();
void kd_cluster_wait(KD_WHERE);
void *kd_host_map_rank(const void *p, unsigned rank);

template <class T> static inline T *kd_map_rank(T *p, unsigned rank)
{
    return (T *)kd_host_map_rank(p, rank);
}

static inline void kd_bar_sync(unsigned id, unsigned threads, KD_WHERE)
{
    kd_host::barrier(id, (int)threads, true, KD_AT);
}

static inline void kd_bar_arrive(unsigned id, unsigned threads, KD_WHERE)
{
    kd_host::barrier(id, (int)threads, false, KD_AT);
}

void kd_cp_async16(void *dst, const void *src, unsigned src_bytes);
void kd_cp_async_commit();
void kd_host_cp_async_wait(unsigned n);

template <int N> static inline void kd_cp_async_wait()
{
    kd_host_cp_async_wait(N);
}

void kd_host_ldmatrix(unsigned *r, int n, bool trans, const void *row, KD_WHERE);

static inline void kd_ldmatrix_x4(unsigned (&r)[4], const void *row, KD_WHERE)
{
    kd_host_ldmatrix(r, 4, false, row, KD_AT);
}

static inline void kd_ldmatrix_x4_trans(unsigned (&r)[4], const void *row, KD_WHERE)
{
    kd_host_ldmatrix(r, 4, true, row, KD_AT);
}

void kd_mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], KD_WHERE);

void kd_mbar_init(uint64_t *bar, unsigned count);
void kd_mbar_arrive(uint64_t *bar);
void kd_mbar_arrive_rank(uint64_t *bar, unsigned rank);
void kd_mbar_arrive_expect_tx(uint64_t *bar, unsigned bytes);
bool kd_mbar_try_wait(uint64_t *bar, unsigned parity, KD_WHERE);

static inline void kd_mbar_wait(uint64_t *bar, unsigned parity, KD_WHERE)
{
    while (!kd_mbar_try_wait(bar, parity, KD_AT)) {
    }
}

static inline void kd_fence_mbar_init()
{
}

void kd_fence_async();

enum { KD_SWIZZLE_NONE = 0, KD_SWIZZLE_32, KD_SWIZZLE_64, KD_SWIZZLE_128 };

struct alignas(64) CUtensorMap {
    char *base;
    uint64_t rows, cols, ld;
    unsigned box_rows, box_cols;
    int swizzle;
};

cudaError_t kd_tensor_map_2d(CUtensorMap *map,
                             const void *base,
                             uint64_t rows,
                             uint64_t cols,
                             uint64_t ld,
                             unsigned box_rows,
                             unsigned box_cols,
                             int swizzle);

static inline void kd_tma_prefetch(const CUtensorMap *)
{
}

void kd_tma_load_2d(void *dst, const CUtensorMap *map, int col, int row, uint64_t *bar);
void kd_tma_store_2d(const CUtensorMap *map, int col, int row, const void *src);
void kd_tma_commit();
void kd_host_tma_wait(unsigned n);

template <int N> static inline void kd_tma_wait()
{
    kd_host_tma_wait(N);
}

void kd_wgmma_fence(KD_WHERE);
void kd_wgmma_commit(KD_WHERE);
void kd_host_wgmma_wait(unsigned n, const char *file, int line);
void kd_host_wgmma(float *d,
                   int n,
                   uint64_t a,
                   uint64_t b,
                   int scale_d,
                   bool trans_a,
                   bool trans_b,
                   const char *file,
                   int line);

template <int N> static inline void kd_wgmma_wait(KD_WHERE)
{
    kd_host_wgmma_wait(N, KD_AT);
}

template <int TA = 0, int TB = 0, int R>
static inline void kd_wgmma(float (&d)[R], uint64_t a, uint64_t b, int scale_d, KD_WHERE)
{
    kd_host_wgmma(d, R * 2, a, b, scale_d, TA, TB, KD_AT);
}

template <int R> static inline void kd_wgmma_operand(float (&)[R])
{
}

template <int N> static inline void kd_setmaxnreg_inc()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "as PTX has it");
}

template <int N> static inline void kd_setmaxnreg_dec()
{
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "as PTX has it");
}

#endif
