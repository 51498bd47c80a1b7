/*
 * memory.cu - memory of both kinds, and what crosses between host and device. Host memory is our own,
 * registered: other processes may then read it directly, which they may not with the driver's mappings.
 */
#include <cstdlib>
#include <sys/mman.h>

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/matmul.h"

/* What alloc gave; stands in host memory, for a device's cannot be read here. */
struct kd_cuda_block {
    kd_cuda_block *next;
    void *memory;
    size_t size_bytes;
    kd_memory kind;
};

static void *take_host(size_t size_bytes, cudaError_t *error_out)
{
    void *memory =
        mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        *error_out = cudaErrorMemoryAllocation;
        return nullptr;
    }
    *error_out = cudaHostRegister(memory, size_bytes, cudaHostRegisterPortable);
    if (*error_out != cudaSuccess) {
        (void)munmap(memory, size_bytes);
        return nullptr;
    }
    return memory;
}

/* Zeroed, and seen so by every stream when it returns. */
static void *take_device(cudaStream_t stream, size_t size_bytes, cudaError_t *error_out)
{
    void *memory = nullptr;

    *error_out = cudaMalloc(&memory, size_bytes);
    if (*error_out != cudaSuccess) {
        return nullptr;
    }
    *error_out = cudaMemsetAsync(memory, 0, size_bytes, stream);
    if (*error_out == cudaSuccess) {
        *error_out = cudaStreamSynchronize(stream);
    }
    if (*error_out != cudaSuccess) {
        (void)cudaFree(memory);
        return nullptr;
    }
    return memory;
}

kd_status
kd_cuda_refusal(const char *device, const char *memory, size_t size_bytes, cudaError_t error)
{
    size_t free_bytes = 0, total_bytes = 0;

    (void)cudaGetLastError(); /* an allocation that is refused hurts nothing that is queued */
    const cudaError_t lost = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (lost != cudaSuccess) {
        return kd_fail(KD_ERR_IO, "%s: taking memory: %s", device, cudaGetErrorString(lost));
    }
    return kd_fail(KD_ERR_NOMEM,
                   "no memory for %zu bytes of %s: %s; %zu of %zu bytes are free on %s", size_bytes,
                   memory, cudaGetErrorString(error), free_bytes, total_bytes, device);
}

/* It may be what was queued before that has failed. */
static void tell_refusal(kd_cuda *cuda, size_t size_bytes, kd_memory kind, cudaError_t error)
{
    if (kind == KD_MEMORY_DEVICE && error != cudaErrorMemoryAllocation) {
        (void)kd_cuda_keep(&cuda->base, error, "taking memory");
        return;
    }
    const char *memory = kind == KD_MEMORY_HOST ? "registered host memory" : "the device";
    const kd_status st = kd_cuda_refusal(cuda->name, memory, size_bytes, error);
    if (st == KD_ERR_IO) {
        kd_backend_keep_fault(&cuda->base, st);
    }
}

static void release(const kd_cuda_block *block)
{
    if (block->kind == KD_MEMORY_DEVICE) {
        (void)cudaFree(block->memory);
    } else {
        (void)cudaHostUnregister(block->memory);
        (void)munmap(block->memory, block->size_bytes);
    }
}

void *kd_cuda_alloc(kd_backend *be, kd_memory kind, size_t size_bytes)
{
    kd_cuda *cuda = kd_cuda_of(be);
    kd_cuda_block *block = static_cast<kd_cuda_block *>(malloc(sizeof *block));
    cudaError_t error = cudaErrorMemoryAllocation;
    void *memory = nullptr;

    KD_CHECK(kind < KD_MEMORY_COUNT);
    size_bytes = size_bytes > 0 ? size_bytes : 1; /* a pointer that free knows */
    if (block != nullptr) {
        memory = kind == KD_MEMORY_HOST ? take_host(size_bytes, &error)
                                        : take_device(cuda->stream, size_bytes, &error);
    }
    if (memory == nullptr) {
        tell_refusal(cuda, size_bytes, kind, error);
        free(block);
        return nullptr;
    }
    *block = {cuda->blocks, memory, size_bytes, kind};
    cuda->blocks = block;
    cuda->held_bytes += size_bytes;
    return memory;
}

/* Waits for the queues: what is queued may use it, and cudaFree would wait for the whole device. */
void kd_cuda_free(kd_backend *be, void *memory)
{
    kd_cuda *cuda = kd_cuda_of(be);
    kd_cuda_block **at = &cuda->blocks;

    if (memory == nullptr) {
        return;
    }
    while (*at != nullptr && (*at)->memory != memory) {
        at = &(*at)->next;
    }
    KD_CHECK(*at != nullptr);
    kd_cuda_block *block = *at;
    (void)kd_cuda_keep(be, kd_cuda_finish(cuda), "waiting for the queues");
    *at = block->next;
    cuda->held_bytes -= block->size_bytes;
    release(block);
    free(block);
}

/* One row has no stride, for the runtime takes none of 2 GiB and more. */
cudaError_t kd_cuda_copy_rows(void *dst,
                              size_t dst_stride,
                              const void *src,
                              size_t src_stride,
                              size_t row_bytes,
                              size_t rows,
                              cudaStream_t stream)
{
    if (rows == 1) {
        return cudaMemcpyAsync(dst, src, row_bytes, cudaMemcpyDefault, stream);
    }
    return cudaMemcpy2DAsync(dst, dst_stride, src, src_stride, row_bytes, rows, cudaMemcpyDefault,
                             stream);
}

void kd_cuda_upload(kd_backend *be, kd_tensor dst, const void *host)
{
    kd_cuda *cuda = kd_cuda_of(be);
    const size_t bytes = kd_dtype_bytes(dst.dtype);
    const bool packed = dst.row_stride == kd_tensor_columns(dst);
    const size_t rows = packed ? 1 : static_cast<size_t>(kd_tensor_rows(dst));
    const size_t stride =
        packed ? kd_tensor_bytes(dst) : static_cast<size_t>(dst.row_stride) * bytes;

    if (be->fault == KD_OK && kd_tensor_elements(dst) > 0) {
        (void)kd_cuda_keep(be,
                           kd_cuda_staging_send(&cuda->staging, cuda->stream, dst.data, stride,
                                                host, kd_tensor_bytes(dst) / rows, rows),
                           "an upload");
    }
}

void kd_cuda_download(kd_backend *be, void *host, kd_tensor src)
{
    kd_cuda *cuda = kd_cuda_of(be);
    const size_t bytes = kd_dtype_bytes(src.dtype);
    const size_t row_bytes = static_cast<size_t>(kd_tensor_columns(src)) * bytes;

    if (be->fault != KD_OK || kd_tensor_elements(src) == 0) {
        return;
    }
    cudaError_t error =
        kd_cuda_copy_rows(host, row_bytes, src.data, static_cast<size_t>(src.row_stride) * bytes,
                          row_bytes, static_cast<size_t>(kd_tensor_rows(src)), cuda->stream);
    if (error == cudaSuccess) {
        error = cudaStreamSynchronize(cuda->stream);
    }
    (void)kd_cuda_keep(be, error, "a download");
}

kd_memory_usage kd_cuda_memory_usage(const kd_backend *be)
{
    const kd_cuda *cuda = reinterpret_cast<const kd_cuda *>(be);
    return {cuda->held_bytes, cuda->scratch.peak_bytes, kd_cuda_products_bytes(cuda->products)};
}
