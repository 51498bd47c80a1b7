/*
 * kernels.h - kernels that try the parts of the emulator, each by a task with a known answer. They are no part
 * of the back end.
 *
 * All pointers are device memory; work is queued on the stream. The result is what the launch says.
 */
#ifndef KD_TESTS_CUDA_KERNELS_H
#define KD_TESTS_CUDA_KERNELS_H

#include "tensor/cuda/device.h"

/* y[r] = x[r] / rms(x[r]) * w */
cudaError_t emu_rmsnorm(__nv_bfloat16 *y,
                        const __nv_bfloat16 *x,
                        const float *w,
                        int rows,
                        int cols,
                        float eps,
                        cudaStream_t s);

/* Softmax over experts <= 256, the k <= 8 largest (ties: the lower index) with weights that sum to 1; then,
 * sorted by expert and within it by token, the place of each (token, slot) and the experts' bounds. */
struct emu_route_out {
    int *expert;     /* (tokens, k) */
    float *weight;   /* (tokens, k) */
    int *place;      /* (tokens, k) */
    int *offset;     /* (experts + 1) */
    int *tile_count; /* scratch: (ceil(tokens / EMU_ROUTE_TILE), experts) */
};

enum { EMU_ROUTE_TILE = 64 };

cudaError_t
emu_route(emu_route_out r, const float *logits, int tokens, int experts, int k, cudaStream_t s);

/* Per row: loss = mix * T^2 * KL(softmax(t/T) || softmax(z/T)) + (1 - mix) * CE(z, label), and dloss/dz. */
cudaError_t emu_soft_loss(float *loss,
                          __nv_bfloat16 *grad,
                          const __nv_bfloat16 *z,
                          const __nv_bfloat16 *t,
                          const int *label,
                          int rows,
                          int vocab,
                          float temperature,
                          float mix,
                          int cluster,
                          cudaStream_t s);

/* c[m][n] = sum_k a[m][k] b[n][k]; k a multiple of 8 */
cudaError_t emu_gemm(float *c,
                     const __nv_bfloat16 *a,
                     const __nv_bfloat16 *b,
                     int m,
                     int n,
                     int k,
                     cudaStream_t s);

/* y[r] = x[r] w[e]^T for the rows r in [offset[e], offset[e + 1]); x (rows, k), w (experts, n, k), n even, k a
 * multiple of 8 */
cudaError_t emu_grouped_gemm(__nv_bfloat16 *y,
                             const __nv_bfloat16 *x,
                             const __nv_bfloat16 *w,
                             const int *offset,
                             int experts,
                             int rows,
                             int n,
                             int k,
                             cudaStream_t s);

/* d (rows, cols), at most 64 each, = a (16, 64)^T b (16, 64) */
cudaError_t emu_unit_mn_major(int swizzle,
                              __nv_bfloat16 *d,
                              const __nv_bfloat16 *a,
                              const __nv_bfloat16 *b,
                              int rows,
                              int cols,
                              cudaStream_t s);
/* d (64, 256) = a (64, 64) b (256, 64)^T by_k, else a (64, 64)^T b (64, 256) */
cudaError_t
emu_unit_wide(bool by_k, float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, cudaStream_t s);
/* d (16, 16) = a (16, 16) b (16, 16) */
cudaError_t
emu_unit_mma_trans(float *d, const __nv_bfloat16 *a, const __nv_bfloat16 *b, cudaStream_t s);
/* out (8, 64): 8 blocks of 64 threads */
cudaError_t emu_unit_mixed(int *out, cudaStream_t s);

#endif
