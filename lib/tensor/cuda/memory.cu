/*
 * memory.cu - memory of both kinds, and what crosses between host and device. Host memory is our own,
 * registered: other processes may then read it directly, which they may not with the driver's mappings.
 */
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

#include "tensor/cuda/cuda.h"
#include "tensor/cuda/matmul.h"

/* What alloc or memory_import gave; stands in host memory, for a device's cannot be read here. */
struct kd_cuda_block {
    kd_cuda_block *next;
    void *memory;
    size_t size_bytes;
    kd_memory kind;
    bool imported; /* another process's: no memory of ours */
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
    if (block->imported) {
        (void)cudaIpcCloseMemHandle(block->memory);
    } else if (block->kind == KD_MEMORY_DEVICE) {
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
    *block = {cuda->blocks, memory, size_bytes, kind, false};
    cuda->blocks = block;
    cuda->held_bytes += size_bytes;
    return memory;
}

/* Where it stands in the list: it must. */
static kd_cuda_block **find_block(kd_cuda *cuda, const void *memory)
{
    kd_cuda_block **at = &cuda->blocks;

    while (*at != nullptr && (*at)->memory != memory) {
        at = &(*at)->next;
    }
    KD_CHECK(*at != nullptr);
    return at;
}

/* Waits for the queues: what is queued may use it, and cudaFree would wait for the whole device. */
void kd_cuda_free(kd_backend *be, void *memory)
{
    kd_cuda *cuda = kd_cuda_of(be);

    if (memory == nullptr) {
        return;
    }
    kd_cuda_block **at = find_block(cuda, memory);
    kd_cuda_block *block = *at;
    (void)kd_cuda_keep(be, kd_cuda_finish(cuda), "waiting for the queues");
    *at = block->next;
    cuda->held_bytes -= block->imported ? 0 : block->size_bytes;
    release(block);
    free(block);
}

/* ---- between processes ---- */

/*
 * What a handle's bytes are. The runtime knows handles of its own host only, and names of processes repeat
 * from host to host: so the host's name of this start stands beside it.
 */
struct shared_memory {
    char kind[8];
    char host[40]; /* with its end */
    cudaIpcMemHandle_t handle;
};

static const char SHARED_KIND[8] = {'k', 'd', 'c', 'u', 'd', 'a', '0', '1'};

static_assert(sizeof(shared_memory) <= sizeof kd_memory_handle::bytes, "it is what travels");

static bool name_host(char (&host)[sizeof shared_memory::host])
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    const bool is_read = file != nullptr && fscanf(file, "%36s", host) == 1;

    if (file != nullptr) {
        (void)fclose(file);
    }
    return is_read;
}

/* What the runtime does not do between two processes is no fault, unless the device is lost. */
static kd_status decline(kd_backend *be, cudaError_t error)
{
    size_t free_bytes = 0, total_bytes = 0;

    (void)cudaGetLastError();
    if (kd_cuda_keep(be, cudaMemGetInfo(&free_bytes, &total_bytes), "sharing memory")) {
        return kd_backend_decline(be, cudaGetErrorString(error));
    }
    return kd_backend_tell_fault(be);
}

kd_status kd_cuda_memory_export(kd_backend *be, void *memory, kd_memory_handle *handle_out)
{
    const kd_cuda_block *block = *find_block(kd_cuda_of(be), memory);
    shared_memory shared = {};

    if (be->fault != KD_OK) {
        return kd_backend_tell_fault(be);
    }
    if (block->kind != KD_MEMORY_DEVICE || block->imported) {
        return kd_backend_decline(be, "only memory of its own is shared");
    }
    if (!name_host(shared.host)) {
        return kd_backend_decline(be, "this host has no name: cannot read its boot_id");
    }
    const cudaError_t error = cudaIpcGetMemHandle(&shared.handle, memory);
    if (error != cudaSuccess) {
        return decline(be, error);
    }
    memcpy(shared.kind, SHARED_KIND, sizeof shared.kind);
    *handle_out = {};
    handle_out->size_bytes = block->size_bytes;
    memcpy(handle_out->bytes, &shared, sizeof shared);
    return KD_OK;
}

/* Whether the bytes are a handle of this host. */
static kd_status
read_handle(kd_backend *be, const kd_memory_handle *handle, shared_memory *shared_out)
{
    char host[sizeof shared_memory::host] = {};

    memcpy(shared_out, handle->bytes, sizeof *shared_out);
    if (memcmp(shared_out->kind, SHARED_KIND, sizeof SHARED_KIND) != 0 || handle->size_bytes == 0) {
        return kd_fail(KD_ERR_PROTO, "%s: memory to import: the bytes are no handle",
                       be->device.name);
    }
    if (!name_host(host)) {
        return kd_backend_decline(be, "this host has no name: cannot read its boot_id");
    }
    return memcmp(host, shared_out->host, sizeof host) == 0
               ? KD_OK
               : kd_backend_decline(be, "memory of another host");
}

kd_status kd_cuda_memory_import(kd_backend *be, const kd_memory_handle *handle, void **memory_out)
{
    kd_cuda *cuda = kd_cuda_of(be);
    shared_memory shared;
    void *memory = nullptr;

    kd_status st =
        be->fault != KD_OK ? kd_backend_tell_fault(be) : read_handle(be, handle, &shared);
    if (st) {
        return st;
    }
    kd_cuda_block *block = static_cast<kd_cuda_block *>(malloc(sizeof *block));
    if (block == nullptr) {
        return kd_fail(KD_ERR_NOMEM, "no memory to import some");
    }
    const cudaError_t error =
        cudaIpcOpenMemHandle(&memory, shared.handle, cudaIpcMemLazyEnablePeerAccess);
    if (error != cudaSuccess) {
        free(block);
        return decline(be, error);
    }
    *block = {cuda->blocks, memory, handle->size_bytes, KD_MEMORY_DEVICE, true};
    cuda->blocks = block;
    *memory_out = memory;
    return KD_OK;
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
