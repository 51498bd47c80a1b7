/*
 * rmsnorm.cu - barriers and shuffles: RMS norm, one block a row.
 */
#include "kernels.h"

enum { THREADS = 128 };

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int d = 16; d; d >>= 1)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

static __global__ void __launch_bounds__(THREADS) rmsnorm(__nv_bfloat16 *__restrict__ y,
                                                          const __nv_bfloat16 *__restrict__ x,
                                                          const float *__restrict__ w,
                                                          int cols,
                                                          float eps)
{
    KD_SHARED(float, part, [THREADS / 32]);
    const __nv_bfloat16 *row = x + (size_t)blockIdx.x * cols;
    float sum = 0;
    for (int i = threadIdx.x; i < cols; i += THREADS) {
        float v = __bfloat162float(row[i]);
        sum += v * v;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < THREADS / 32; i++)
        sum += part[i];
    float scale = rsqrtf(sum / cols + eps);
    for (int i = threadIdx.x; i < cols; i += THREADS)
        y[(size_t)blockIdx.x * cols + i] =
            __float2bfloat16(__bfloat162float(row[i]) * scale * w[i]);
}

cudaError_t emu_rmsnorm(__nv_bfloat16 *y,
                        const __nv_bfloat16 *x,
                        const float *w,
                        int rows,
                        int cols,
                        float eps,
                        cudaStream_t s)
{
    return rows ? kd_launch(rmsnorm, rows, THREADS, 1, 0, s, y, x, w, cols, eps) : cudaSuccess;
}
