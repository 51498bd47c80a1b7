/*
 * cuda_host.h - compiles a .cu file with the C++ compiler of the machine and runs its kernels on the CPU.
 *
 * tensor/cuda/device.h includes it in place of PTX where the compiler is not nvcc. Each CUDA thread is a
 * fiber on its own stack; fibers of a block, or of all blocks of a cluster, run until they meet a barrier.
 * Blocks run one after another. No CUDA toolkit is needed.
 *
 * What it cannot show: the weak memory model (a store is seen at once); proxy fences other than
 * kd_fence_async(); blocks that wait for each other outside a cluster; speed; the exact roundings of tensor
 * cores and of fast intrinsics.
 */
#ifndef KD_CUDA_HOST_H
#define KD_CUDA_HOST_H

#include "control.h"
#include "cuda_bf16.h"
#include "cuda_runtime.h"
#include "cuda_units.h"
#include "tensor/cuda/limits.h"

#include <functional>
#include <tuple>

namespace kd_host
{
struct launch_shape {
    dim3 grid, block;
    unsigned cluster; /* 0 and 1: none */
    size_t smem;      /* dynamic, bytes */
    bool smem_asked;  /* there may be more than 48 KiB, with what the kernel declares */
};

/* Queues a launch; body(context) is one thread's run of the kernel, copied context and all. */
cudaError_t
submit_kernel(cudaStream_t stream, const launch_shape &shape, std::function<cudaError_t()> run);
/* Runs the kernel now; only within what submit_kernel() was given. */
cudaError_t launch(const launch_shape &shape, void (*body)(void *), void *context);

/* As many as if a multiprocessor had one block, and one at least. */
cudaError_t clusters_at_once(unsigned cluster, int *n_out);

static inline void set_seed(unsigned seed)
{
    kd_cuda_host_set_seed(seed);
}

static inline const char *last_fault()
{
    return kd_cuda_host_last_fault();
}
} // namespace kd_host

template <class... P, class... A>
static inline cudaError_t kd_launch(void (*kernel)(P...),
                                    dim3 grid,
                                    dim3 block,
                                    unsigned cluster,
                                    size_t smem,
                                    cudaStream_t stream,
                                    A... args)
{
    struct call {
        void (*kernel)(P...);
        std::tuple<P...> args;
    };

    kd_host::launch_shape shape{grid, block, cluster, smem, smem > KD_SHARED_UNASKED};
    return kd_host::submit_kernel(
        stream, shape,
        [shape, one = call{kernel, std::tuple<P...>(static_cast<P>(args)...)}]() mutable {
            return kd_host::launch(
                shape, [](void *c) { std::apply(((call *)c)->kernel, ((call *)c)->args); }, &one);
        });
}

template <class... P>
static inline cudaError_t
kd_clusters_at_once(void (*)(P...), dim3, unsigned cluster, size_t, int *n_out)
{
    return kd_host::clusters_at_once(cluster, n_out);
}

#endif
