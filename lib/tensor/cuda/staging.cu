/*
 * staging.cu - sends what the host has in pieces of half the staging memory each: whole rows where they
 * fit, parts of a row where one is larger.
 */
#include <algorithm>
#include <cstring>

#include "tensor/cuda/cuda.h"

cudaError_t kd_cuda_staging_create(kd_cuda_staging *staging)
{
    cudaError_t error = cudaSuccess;

    *staging = {};
    for (int i = 0; i < KD_CUDA_STAGING_HALVES && error == cudaSuccess; i++) {
        error = cudaMallocHost(&staging->memory[i], KD_CUDA_STAGING_BYTES);
        if (error == cudaSuccess) {
            error = cudaEventCreateWithFlags(&staging->sent[i], cudaEventDisableTiming);
        }
    }
    return error;
}

void kd_cuda_staging_destroy(kd_cuda_staging *staging)
{
    for (int i = 0; i < KD_CUDA_STAGING_HALVES; i++) {
        if (staging->sent[i] != nullptr) {
            (void)cudaEventDestroy(staging->sent[i]);
        }
        if (staging->memory[i] != nullptr) {
            (void)cudaFreeHost(staging->memory[i]);
        }
    }
}

/* A piece that fits a half. */
static cudaError_t send_piece(kd_cuda_staging *staging,
                              cudaStream_t stream,
                              char *dst,
                              size_t dst_stride,
                              const char *host,
                              size_t row_bytes,
                              size_t rows)
{
    const int turn = staging->next;
    cudaError_t error = cudaEventSynchronize(staging->sent[turn]); /* at once if never recorded */

    staging->next = (turn + 1) % KD_CUDA_STAGING_HALVES;
    if (error != cudaSuccess) {
        return error;
    }
    memcpy(staging->memory[turn], host, rows * row_bytes);
    error = kd_cuda_copy_rows(dst, dst_stride, staging->memory[turn], row_bytes, row_bytes, rows,
                              stream);
    return error != cudaSuccess ? error : cudaEventRecord(staging->sent[turn], stream);
}

cudaError_t kd_cuda_staging_send(kd_cuda_staging *staging,
                                 cudaStream_t stream,
                                 void *dst,
                                 size_t dst_stride,
                                 const void *host,
                                 size_t row_bytes,
                                 size_t rows)
{
    const size_t most_rows = std::max<size_t>(KD_CUDA_STAGING_BYTES / row_bytes, 1);
    const size_t most_bytes = std::min(row_bytes, KD_CUDA_STAGING_BYTES);
    cudaError_t error = cudaSuccess;

    for (size_t row = 0; row < rows && error == cudaSuccess; row += most_rows) {
        const size_t n_rows = std::min(most_rows, rows - row);
        for (size_t at = 0; at < row_bytes && error == cudaSuccess; at += most_bytes) {
            error = send_piece(staging, stream, static_cast<char *>(dst) + row * dst_stride + at,
                               dst_stride, static_cast<const char *>(host) + row * row_bytes + at,
                               std::min(most_bytes, row_bytes - at), n_rows);
        }
    }
    return error;
}
