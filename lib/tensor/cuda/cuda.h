/*
 * cuda.h - what the files of the CUDA back end share.
 *
 * An operation checks its shapes as the CPU's does, takes scratch memory if it needs some, and launches
 * kernels on the back end's stream, where they run in order: what is rewound may be taken again at
 * once. Transfers have a stream beside it. No operation waits for the device, and none reads a value of a
 * tensor on the host. Sums have fixed trees and no float atomics: the same shapes give the same bits on one
 * kind of GPU.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TENSOR_CUDA_CUDA_H
#define KD_TENSOR_CUDA_CUDA_H

#include <type_traits>

#include "tensor/checks.h"
#include "tensor/cuda/device.h"
#include "tensor/cuda/events.h"
#include "tensor/cuda/kernels.h"
#include "tensor/cuda/regions.h"
#include "tensor/cuda/staging.h"
#include "tensor/cuda/trap.h"
#include "tensor/ops.h"
#include "tensor/product.h"
#include "tensor/scratch.h"

struct kd_cuda_attention_plans;
struct kd_cuda_block;
struct kd_cuda_products;

struct kd_cuda {
    kd_backend base;        /* first: a kd_backend * is a kd_cuda * */
    cudaStream_t stream;    /* of operations                        */
    cudaStream_t transfers; /* beside it                            */
    kd_scratch scratch;
    kd_cuda_events events[KD_QUEUE_COUNT];
    kd_cuda_staging staging;
    kd_cuda_regions regions;
    kd_cuda_products *products;         /* of matmul.h                                      */
    kd_cuda_attention_plans *attention; /* of attention_cudnn.h; NULL: none so far */
    kd_cuda_block *blocks;              /* what alloc gave: a list                          */
    size_t held_bytes;                  /* of those                                         */
    kd_cuda_choice choice;              /* of kernels                                       */
    int64_t n_runs[KD_CUDA_KERNELS];    /* of the fast ones                                 */
    int *trap;                          /* a kd_cuda_trap, of host memory that kernels write */
    uint64_t awaited;                   /* devices this one waits for, as bits              */
    char name[256];                     /* of the device                                    */
};

static inline kd_cuda *kd_cuda_of(kd_backend *be)
{
    return reinterpret_cast<kd_cuda *>(be);
}

/* Whether that kernel, a fast one, runs here rather than the plain one. */
static inline bool kd_cuda_uses(kd_backend *be, kd_cuda_kernel kernel)
{
    return kd_cuda_of(be)->choice.uses[kernel];
}

/* Counts a run of that kernel, a fast one, which has just been queued; see kd_cuda_runs(). */
static inline void kd_cuda_ran(kd_backend *be, kd_cuda_kernel kernel)
{
    kd_cuda_of(be)->n_runs[kernel] += be->fault == KD_OK ? 1 : 0;
}

/* The table's functions, each defined by the file that is named as the CPU's. */
#define KD_CUDA_DECLARE(op) std::remove_pointer_t<decltype(kd_ops::op)> kd_cuda_##op;
extern "C" {
KD_OPS_EACH(KD_CUDA_DECLARE)
}

/* Waits until both queues are done. */
cudaError_t kd_cuda_finish(const kd_cuda *cuda);

/* Keeps an error of the runtime as the back end's fault; `what` was being done. False if there was one. */
bool kd_cuda_keep(kd_backend *be, cudaError_t error, const char *what);

/* An allocation of `memory` ("the device") that the runtime refused: KD_ERR_NOMEM, with what is free;
 * KD_ERR_IO where the device is lost. */
kd_status
kd_cuda_refusal(const char *device, const char *memory, size_t size_bytes, cudaError_t error);

/* As scratch.h says; NULL if the back end now has a fault. Who takes some rewinds to the mark of
 * before. */
void *kd_cuda_scratch(kd_backend *be, size_t size_bytes);
size_t kd_cuda_scratch_mark(kd_backend *be);
void kd_cuda_scratch_rewind(kd_backend *be, size_t mark);

/* A scratch tensor of rows by columns; its data is NULL if the back end now has a fault. */
kd_tensor kd_cuda_scratch_2d(kd_backend *be, kd_dtype dtype, int64_t rows, int64_t columns);

/* Queues a copy of rows of so many bytes, which begin the strides apart, between memory of any kind. */
cudaError_t kd_cuda_copy_rows(void *dst,
                              size_t dst_stride,
                              const void *src,
                              size_t src_stride,
                              size_t row_bytes,
                              size_t rows,
                              cudaStream_t stream);

/* A product on the stream; see product.h. One with M or N of 0 does nothing; K of 0 gives zeros, or nothing
 * where it accumulates. */
void kd_cuda_product(kd_backend *be, const kd_product *product);

/* Calls f(T{}) with the C type of a dtype, float or __nv_bfloat16. */
template <class F> void kd_cuda_with_type(kd_dtype dtype, F f)
{
    if (dtype == KD_BF16) {
        f(__nv_bfloat16{});
    } else {
        KD_CHECK(dtype == KD_F32);
        f(float{});
    }
}

/* Whether pieces of `width` elements of each row may be moved at once; of no tensor they may. */
static inline bool kd_cuda_fits(kd_tensor t, int width)
{
    const size_t bytes = static_cast<size_t>(width) * kd_dtype_bytes(t.dtype);
    return t.data == nullptr ||
           (reinterpret_cast<uintptr_t>(t.data) % (bytes < 16 ? bytes : 16) == 0 &&
            (kd_tensor_rows(t) <= 1 || t.row_stride % width == 0));
}

/* First element, of a type that must be the tensor's. */
template <class T> T *kd_cuda_data(kd_tensor t)
{
    return static_cast<T *>(t.data);
}

/*
 * Launches kernel(args...) unless the back end has a fault or the grid is empty. smem_bytes: dynamic shared
 * memory. `what` names it in a fault. Clusters are of so many blocks side by side, which divide grid.x.
 */
template <class... P, class... A>
void kd_cuda_launch_clusters(kd_backend *be,
                             const char *what,
                             void (*kernel)(P...),
                             dim3 grid,
                             dim3 block,
                             unsigned cluster,
                             size_t smem_bytes,
                             A... args)
{
    if (be->fault == KD_OK && grid.x > 0 && grid.y > 0 && grid.z > 0) {
        (void)kd_cuda_keep(be,
                           kd_launch(kernel, grid, block, cluster, smem_bytes,
                                     kd_cuda_of(be)->stream, static_cast<P>(args)...),
                           what);
    }
}

template <class... P, class... A>
void kd_cuda_launch(kd_backend *be,
                    const char *what,
                    void (*kernel)(P...),
                    dim3 grid,
                    dim3 block,
                    size_t smem_bytes,
                    A... args)
{
    kd_cuda_launch_clusters(be, what, kernel, grid, block, 1, smem_bytes, static_cast<P>(args)...);
}

/* Blocks of `per_block` items that n items need, as a dimension of a grid: at most 2^31 - 1. */
static inline unsigned kd_cuda_blocks(int64_t n, int64_t per_block)
{
    const int64_t n_blocks = (n + per_block - 1) / per_block;
    KD_CHECK(n >= 0 && n_blocks <= INT32_MAX);
    return static_cast<unsigned>(n_blocks);
}

#endif
