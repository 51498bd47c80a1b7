/*
 * staging.h - host memory that the device reads itself, for what the host sends: the caller's memory is
 * free again when the copy into it is done, and nobody waits for the device but where both halves are
 * still on their way.
 */
#ifndef KD_TENSOR_CUDA_STAGING_H
#define KD_TENSOR_CUDA_STAGING_H

#include <stddef.h>

#include "tensor/cuda/device.h"

enum { KD_CUDA_STAGING_HALVES = 2 };

struct kd_cuda_staging {
    char *memory[KD_CUDA_STAGING_HALVES]; /* of KD_CUDA_STAGING_BYTES each, registered */
    cudaEvent_t sent[KD_CUDA_STAGING_HALVES];
    int next;
};

constexpr size_t KD_CUDA_STAGING_BYTES = size_t{1} << 20;

cudaError_t kd_cuda_staging_create(kd_cuda_staging *staging);
void kd_cuda_staging_destroy(kd_cuda_staging *staging); /* also where create stopped half way */

/*
 * Queues a copy of rows * row_bytes packed bytes at `host` to rows that lie `dst_stride` bytes apart on the
 * device. Has read `host` when it returns.
 */
cudaError_t kd_cuda_staging_send(kd_cuda_staging *staging,
                                 cudaStream_t stream,
                                 void *dst,
                                 size_t dst_stride,
                                 const void *host,
                                 size_t row_bytes,
                                 size_t rows);

#endif
