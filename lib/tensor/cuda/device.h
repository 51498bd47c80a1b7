/*
 * device.h - what kernels are written with: the CUDA runtime under nvcc, an emulator of it under any other
 * C++17 compiler. The only header a kernel needs; hopper.h comes with it.
 *
 * Rules that make one source do for both: shared memory by KD_SHARED and KD_DYN_SHARED, launches by kd_launch(),
 * no inline PTX outside of hopper.h, no cooperative groups, textures or <<<>>>, no __noinline__; all lanes of a
 * mask come, also to __syncwarp; who returns early leaves nobody waiting at __syncthreads.
 *
 * Reductions here have one fixed tree, so that equal input gives equal bits whatever the schedule.
 */
#ifndef KD_TENSOR_CUDA_DEVICE_H
#define KD_TENSOR_CUDA_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/cuda/limits.h"

#ifdef __CUDACC__

/* KD_SHARED(float, x, [32]) declares float x[32]; a scalar is KD_SHARED(uint64_t, bar, ). */
#define KD_SHARED(T, name, ...) __shared__ T name __VA_ARGS__
/* All of the launch's dynamic shared memory. */
#define KD_DYN_SHARED(T, name, align)                                                              \
    extern __shared__ __align__(align)                                                             \
    unsigned char kd_dyn_shared[];                                                                 \
    T *name = (T *)kd_dyn_shared

/* A launch as the runtime takes it; must not be moved. */
struct kd_launch_config {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute;

    kd_launch_config(dim3 grid, dim3 block, unsigned cluster, size_t smem, cudaStream_t stream)
    {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = cluster;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = smem;
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }

    kd_launch_config(const kd_launch_config &) = delete;
};

/* What a kernel must be allowed before such a launch. */
static inline cudaError_t kd_allow(const void *kernel, unsigned cluster, size_t smem)
{
    cudaError_t error = cudaSuccess;
    if (smem > KD_SHARED_UNASKED)
        error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)smem);
    if (!error && cluster > 8)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    return error;
}

/*
 * Queues kernel(args...) on the stream. A cluster of 0 or 1 is none; smem in bytes: more than KD_SHARED_UNASKED
 * is asked for, which is done here and nowhere else. What is wrong with the launch is returned; what
 * goes wrong in the kernel comes with a later call.
 */
template <class... P, class... A>
static inline cudaError_t kd_launch(void (*kernel)(P...),
                                    dim3 grid,
                                    dim3 block,
                                    unsigned cluster,
                                    size_t smem,
                                    cudaStream_t stream,
                                    A... args)
{
    kd_launch_config launch(grid, block, cluster, smem, stream);
    const cudaError_t error = kd_allow((const void *)kernel, cluster, smem);
    launch.config.numAttrs = cluster > 1;
    return error ? error : cudaLaunchKernelEx(&launch.config, kernel, static_cast<P>(args)...);
}

/* How many clusters of such a launch the current device runs at once; none where it has no room for one. */
template <class... P>
static inline cudaError_t
kd_clusters_at_once(void (*kernel)(P...), dim3 block, unsigned cluster, size_t smem, int *n_out)
{
    kd_launch_config launch(cluster, block, cluster, smem, nullptr);
    const cudaError_t error = kd_allow((const void *)kernel, cluster, smem);
    return error ? error
                 : cudaOccupancyMaxActiveClusters(n_out, (const void *)kernel, &launch.config);
}

#else
#include <cuda_host.h>
#endif

#define KD_FN     static __device__ __forceinline__
#define KD_MEMBER __device__ __forceinline__

#include "tensor/cuda/hopper.h"

/* Sum and maximum over the 32 lanes of a warp, all of which must come; every lane gets the result. A NaN is
 * lost by the maximum. */
template <class T> KD_FN T kd_warp_sum(T v)
{
#pragma unroll
    for (int d = 16; d; d >>= 1)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

KD_FN float kd_max(float a, float b)
{
    return fmaxf(a, b);
}

KD_FN double kd_max(double a, double b)
{
    return fmax(a, b);
}

template <class T> KD_FN T kd_warp_max(T v)
{
#pragma unroll
    for (int d = 16; d; d >>= 1)
        v = kd_max(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* The same over a block of one dimension whose size is a multiple of 32; every thread gets the result. Two
 * barriers, so that a second call may follow at once. */
template <class T> KD_FN T kd_block_sum(T v)
{
    KD_SHARED(T, part, [32]);
    unsigned lane = threadIdx.x % 32;
    v = kd_warp_sum(v);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = kd_warp_sum(lane < blockDim.x / 32 ? part[lane] : T(0));
    __syncthreads();
    return v;
}

template <class T> KD_FN T kd_block_max(T v)
{
    KD_SHARED(T, part, [32]);
    unsigned lane = threadIdx.x % 32;
    v = kd_warp_max(v);
    if (lane == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = kd_warp_max(lane < blockDim.x / 32 ? part[lane] : part[0]);
    __syncthreads();
    return v;
}

/* Elements are float or __nv_bfloat16; arithmetic is float. Stores round to the nearest, ties to even. */
KD_FN float kd_load(const float *p)
{
    return *p;
}

KD_FN float kd_load(const __nv_bfloat16 *p)
{
    return __bfloat162float(*p);
}

KD_FN void kd_store(float *p, float v)
{
    *p = v;
}

KD_FN void kd_store(__nv_bfloat16 *p, float v)
{
    *p = __float2bfloat16(v);
}

/* A value as a store and a load of it would leave it. */
template <class T> KD_FN float kd_rounded(float v)
{
    T stored;
    kd_store(&stored, v);
    return kd_load(&stored);
}

KD_FN float kd_sigmoid(float x)
{
    const float e = expf(-fabsf(x)); /* never above 1 */
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* How many elements 16 bytes hold. */
template <class T> static constexpr int KD_VECTOR = 16 / (int)sizeof(T);

/* May 16 bytes at once be moved at p? For rows: at the first one, and the stride fits too. */
static __host__ __device__ __forceinline__ bool kd_is_aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

template <class T>
static __host__ __device__ __forceinline__ bool kd_rows_are_aligned(const T *p, int64_t row_stride)
{
    return kd_is_aligned(p) && row_stride % KD_VECTOR<T> == 0;
}

/* A misaligned access of 16 or 8 bytes ends the kernel on a device; so it does in the emulator. */
template <class U> KD_FN U kd_load_bytes(const void *p)
{
#ifndef __CUDACC__
    if ((uintptr_t)p % sizeof(U))
        kd_host::fault("a load of %zu bytes from the misaligned address %p", sizeof(U), p);
#endif
    return *(const U *)p;
}

template <class U> KD_FN void kd_store_bytes(void *p, U v)
{
#ifndef __CUDACC__
    if ((uintptr_t)p % sizeof(U))
        kd_host::fault("a store of %zu bytes to the misaligned address %p", sizeof(U), p);
#endif
    *(U *)p = v;
}

KD_FN uint4 kd_load_16(const void *p)
{
    return kd_load_bytes<uint4>(p);
}

KD_FN void kd_store_16(void *p, uint4 v)
{
    kd_store_bytes(p, v);
}

KD_FN void kd_unpack(float *v, unsigned two)
{
    v[0] = __uint_as_float(two << 16);
    v[1] = __uint_as_float(two & 0xffff0000u);
}

KD_FN unsigned kd_pack(float low, float high)
{
    unsigned l = __bfloat16_as_ushort(__float2bfloat16(low));
    unsigned h = __bfloat16_as_ushort(__float2bfloat16(high));
    return l | h << 16;
}

/*
 * 1, 4 or 8 elements at p as floats and back, so that one loop serves rows of any alignment. Several are moved
 * 16 bytes at a time, or 8 where there are no more, and p must be aligned to that.
 */
template <class T> KD_FN void kd_load_vector(float (&v)[1], const T *p)
{
    v[0] = kd_load(p);
}

KD_FN void kd_load_vector(float (&v)[4], const float *p)
{
    uint4 u = kd_load_16(p);
    v[0] = __uint_as_float(u.x);
    v[1] = __uint_as_float(u.y);
    v[2] = __uint_as_float(u.z);
    v[3] = __uint_as_float(u.w);
}

KD_FN void kd_load_vector(float (&v)[8], const __nv_bfloat16 *p)
{
    uint4 u = kd_load_16(p);
    kd_unpack(v, u.x);
    kd_unpack(v + 2, u.y);
    kd_unpack(v + 4, u.z);
    kd_unpack(v + 6, u.w);
}

KD_FN void kd_load_vector(float (&v)[4], const __nv_bfloat16 *p)
{
    uint2 u = kd_load_bytes<uint2>(p);
    kd_unpack(v, u.x);
    kd_unpack(v + 2, u.y);
}

KD_FN void kd_load_vector(float (&v)[8], const float *p)
{
    float low[4], high[4];
    kd_load_vector(low, p);
    kd_load_vector(high, p + 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = low[i];
        v[i + 4] = high[i];
    }
}

template <class T> KD_FN void kd_store_vector(T *p, const float (&v)[1])
{
    kd_store(p, v[0]);
}

KD_FN void kd_store_vector(float *p, const float (&v)[4])
{
    kd_store_16(p, make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                              __float_as_uint(v[3])));
}

KD_FN void kd_store_vector(__nv_bfloat16 *p, const float (&v)[8])
{
    kd_store_16(p, make_uint4(kd_pack(v[0], v[1]), kd_pack(v[2], v[3]), kd_pack(v[4], v[5]),
                              kd_pack(v[6], v[7])));
}

KD_FN void kd_store_vector(__nv_bfloat16 *p, const float (&v)[4])
{
    kd_store_bytes(p, make_uint2(kd_pack(v[0], v[1]), kd_pack(v[2], v[3])));
}

KD_FN void kd_store_vector(float *p, const float (&v)[8])
{
    const float low[4] = {v[0], v[1], v[2], v[3]}, high[4] = {v[4], v[5], v[6], v[7]};
    kd_store_vector(p, low);
    kd_store_vector(p + 4, high);
}

#endif
