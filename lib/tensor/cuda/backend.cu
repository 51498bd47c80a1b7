/*
 * backend.cu - making and ending a back end of a GPU: a stream on which operations run in order, one for
 * transfers beside it, and the table of operations. An error of the runtime is kept as a fault at once where
 * a call tells it, and otherwise by the next wait.
 */
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "base/log.h"
#include "tensor/cuda/attention_cudnn.h"
#include "tensor/cuda/cuda.h"
#include "tensor/cuda/matmul.h"
#include "tensor/kind.h"

/* What kernels are compiled for begins there: bf16 products and asynchronous copies. */
enum { CAPABILITY_MIN = 80 };

/* What kernels note before they end; ": " follows. */
static const char *const trap_texts[KD_TRAP_COUNT] = {
    "",
    "embed met an id that is no row of its table: ",
    "embed_backward met an id that is no row of its table: ",
    "rotate met a position that its table does not have: ",
};

static const char *trap_text(const kd_cuda *cuda)
{
    const int trap = cuda->trap != nullptr ? *cuda->trap : KD_TRAP_NONE;
    return trap > KD_TRAP_NONE && trap < KD_TRAP_COUNT ? trap_texts[trap] : "";
}

bool kd_cuda_keep(kd_backend *be, cudaError_t error, const char *what)
{
    if (error == cudaSuccess) {
        return true;
    }
    (void)cudaGetLastError(); /* told here, not once more by the next call */
    if (be->fault != KD_OK) { /* of a device that is lost each call says so; one line is enough */
        return false;
    }
    kd_backend_keep_fault(be, kd_fail(error == cudaErrorMemoryAllocation ? KD_ERR_NOMEM : KD_ERR_IO,
                                      "%s: %s: %s%s", kd_cuda_of(be)->name, what,
                                      trap_text(kd_cuda_of(be)), cudaGetErrorString(error)));
    return false;
}

/* ---- scratch memory ---- */

static void *take_block(void *user, size_t size_bytes)
{
    void *memory = nullptr;

    kd_cuda_regions_break(&static_cast<kd_cuda *>(user)->base);
    if (cudaMalloc(&memory, size_bytes) != cudaSuccess) {
        (void)cudaGetLastError();
        return nullptr;
    }
    return memory;
}

/* What is queued may use it; an error comes again with the next wait. */
static void give_block(void *user, void *memory)
{
    kd_cuda *cuda = static_cast<kd_cuda *>(user);

    kd_cuda_regions_break(&cuda->base);
    (void)cudaStreamSynchronize(cuda->stream);
    (void)cudaFree(memory);
}

void *kd_cuda_scratch(kd_backend *be, size_t size_bytes)
{
    kd_cuda *cuda = kd_cuda_of(be);

    if (be->fault != KD_OK) {
        return nullptr;
    }
    const int quiet = kd_fault_quiet(1); /* told below, with what is free */
    void *memory = kd_scratch_take(&cuda->scratch, size_bytes);
    (void)kd_fault_quiet(quiet);
    if (memory == nullptr) {
        kd_backend_keep_fault(be, kd_cuda_refusal(cuda->name, "the device, for an operation",
                                                  size_bytes, cudaErrorMemoryAllocation));
    }
    return memory;
}

size_t kd_cuda_scratch_mark(kd_backend *be)
{
    return kd_cuda_of(be)->scratch.used_bytes;
}

void kd_cuda_scratch_rewind(kd_backend *be, size_t mark)
{
    kd_scratch_rewind(&kd_cuda_of(be)->scratch, mark);
}

kd_tensor kd_cuda_scratch_2d(kd_backend *be, kd_dtype dtype, int64_t rows, int64_t columns)
{
    const kd_tensor shape = kd_tensor_2d(nullptr, dtype, rows, columns);
    return kd_tensor_2d(kd_cuda_scratch(be, kd_tensor_bytes(shape)), dtype, rows, columns);
}

/* ---- life ---- */

cudaError_t kd_cuda_finish(const kd_cuda *cuda)
{
    const cudaError_t error = cudaStreamSynchronize(cuda->stream);
    return error != cudaSuccess ? error : cudaStreamSynchronize(cuda->transfers);
}

/* Of a device, also if it is not this back end's: each later call tells what has failed there. */
static cudaError_t state_of(int number)
{
    int before = number;
    size_t free_bytes, total_bytes;

    (void)cudaGetDevice(&before);
    cudaError_t error = cudaSetDevice(number);
    if (error == cudaSuccess) {
        error = cudaMemGetInfo(&free_bytes, &total_bytes);
    }
    (void)cudaGetLastError(); /* while that device is asked */
    (void)cudaSetDevice(before);
    return error;
}

/* What this queue has waited for is past, but perhaps only since its device is lost. */
static void ask_awaited(kd_cuda *cuda)
{
    char what[64];

    for (int number = 0; number < KD_CUDA_DEVICES_MAX; number++) {
        if ((cuda->awaited >> number & 1) != 0) {
            (void)snprintf(what, sizeof what, "CUDA device %d, which it waited for", number);
            (void)kd_cuda_keep(&cuda->base, state_of(number), what);
        }
    }
    cuda->awaited = 0;
}

kd_status kd_cuda_wait(kd_backend *be)
{
    (void)kd_cuda_keep(be, kd_cuda_finish(kd_cuda_of(be)), "what was queued");
    ask_awaited(kd_cuda_of(be));
    return kd_backend_tell_fault(be);
}

static void destroy_stream(cudaStream_t stream)
{
    if (stream != nullptr) {
        (void)cudaStreamDestroy(stream);
    }
}

void kd_cuda_destroy(kd_backend *be)
{
    kd_cuda *cuda = kd_cuda_of(be);

    if (cuda->transfers != nullptr) { /* the last of the streams */
        (void)kd_cuda_finish(cuda);
    }
    kd_cuda_regions_destroy(&cuda->regions);
    kd_cuda_attention_plans_destroy(cuda->attention);
    kd_cuda_products_destroy(cuda->products);
    kd_scratch_release(&cuda->scratch);
    kd_cuda_staging_destroy(&cuda->staging);
    for (kd_cuda_events &events : cuda->events) {
        kd_cuda_events_destroy(&events);
    }
    if (cuda->trap != nullptr) {
        (void)cudaFreeHost(cuda->trap);
    }
    destroy_stream(cuda->transfers);
    destroy_stream(cuda->stream);
    free(cuda);
}

/* The device of this thread while one of these lives: streams and memory are of one, and a thread may drive
 * several back ends, also one from within another's operation. */
struct device_scope {
    int number, before;

    explicit device_scope(int wanted) : number(wanted), before(wanted)
    {
        if (cudaGetDevice(&before) != cudaSuccess || before != number) {
            (void)cudaSetDevice(number);
        }
    }

    ~device_scope()
    {
        if (before != number) {
            (void)cudaSetDevice(before);
        }
    }

    device_scope(const device_scope &) = delete;
    device_scope &operator=(const device_scope &) = delete;
};

/* What no graph can hold: whatever waits, asks where the queue is, or takes and gives memory. */
template <auto function> constexpr bool breaks_region = false;

#define KD_CUDA_BREAKS(op) template <> constexpr bool breaks_region<kd_cuda_##op> = true;
KD_CUDA_BREAKS(alloc)
KD_CUDA_BREAKS(free)
KD_CUDA_BREAKS(memory_export)
KD_CUDA_BREAKS(memory_import)
KD_CUDA_BREAKS(wait)
KD_CUDA_BREAKS(destroy)
KD_CUDA_BREAKS(event_record)
KD_CUDA_BREAKS(event_query)
KD_CUDA_BREAKS(event_wait)
KD_CUDA_BREAKS(transfer)
KD_CUDA_BREAKS(mark)
KD_CUDA_BREAKS(marks_elapsed)
KD_CUDA_BREAKS(upload)
KD_CUDA_BREAKS(download)

/* A function of the table, on the back end's device. */
template <auto function> struct on_device;

template <class R, class B, class... A, R (*function)(B *, A...)> struct on_device<function> {
    static R call(B *be, A... args)
    {
        const device_scope scope(be->device.number);
        if constexpr (breaks_region<function>) {
            kd_cuda_regions_break(be);
        }
        return function(be, args...);
    }
};

#define KD_CUDA_OP(op) on_device<kd_cuda_##op>::call,

static const kd_ops ops = {"cuda", KD_OPS_EACH(KD_CUDA_OP)};

static cudaError_t set_up(kd_cuda *cuda, int number)
{
    cudaDeviceProp properties;

    cudaError_t error = cudaSetDevice(number);
    if (error == cudaSuccess) {
        error = cudaGetDeviceProperties(&properties, number);
    }
    if (error == cudaSuccess) {
        (void)snprintf(cuda->name, sizeof cuda->name, "%s", properties.name);
        error = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    }
    if (error == cudaSuccess) {
        error = cudaStreamCreateWithFlags(&cuda->transfers, cudaStreamNonBlocking);
    }
    for (kd_cuda_events &events : cuda->events) {
        error = error == cudaSuccess ? kd_cuda_events_create(&events) : error;
    }
    if (error == cudaSuccess) {
        error = cudaMallocHost(&cuda->trap, sizeof *cuda->trap);
    }
    if (error == cudaSuccess) {
        *cuda->trap = KD_TRAP_NONE;
        error = kd_cuda_staging_create(&cuda->staging);
    }
    return error;
}

/* 10 * major + minor; 0 where it cannot be told. */
static int capability_of(int number)
{
    int major = 0, minor = 0;

    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, number) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, number) != cudaSuccess) {
        return 0;
    }
    return 10 * major + minor;
}

/* One that is too old hides those behind it, so that numbers stay the runtime's. */
int kd_cuda_device_count(void)
{
    int n = 0, n_usable = 0;

    if (cudaGetDeviceCount(&n) != cudaSuccess) { /* no driver is no device */
        (void)cudaGetLastError();
        return 0;
    }
    n = n < KD_CUDA_DEVICES_MAX ? n : KD_CUDA_DEVICES_MAX;
    while (n_usable < n && capability_of(n_usable) >= CAPABILITY_MIN) {
        n_usable++;
    }
    return n_usable;
}

void kd_cuda_identity(int number, char text_out[KD_CUDA_IDENTITY_BYTES])
{
    cudaDeviceProp properties;
    int n = 0;

    text_out[0] = '\0';
    if (cudaGetDeviceProperties(&properties, number) != cudaSuccess) {
        (void)cudaGetLastError();
        return;
    }
    for (const char byte : properties.uuid.bytes) {
        n += snprintf(text_out + n, static_cast<size_t>(KD_CUDA_IDENTITY_BYTES - n), "%02x",
                      static_cast<unsigned char>(byte));
    }
}

void kd_cuda_kind(int number, char name_out[KD_CUDA_KIND_BYTES])
{
    (void)snprintf(name_out, KD_CUDA_KIND_BYTES, "sm_%d", capability_of(number));
}

/* Once for each kind of device: a job has many back ends. */
static void say_unproven(const kd_cuda *cuda, int capability)
{
    static std::atomic<int> said{0};

    if (cuda->choice.n_unproven > 0 && said.exchange(capability) != capability) {
        kd_log(KD_LOG_INFO,
               "%s: %d of its kernels have not passed their tests on this kind of GPU (sm_%d)",
               cuda->name, cuda->choice.n_unproven, capability);
    }
}

kd_status kd_backend_create_cuda(kd_dtype compute, int number, kd_backend **be_out)
{
    const int n_devices = kd_cuda_device_count();

    if (number < 0 || number >= n_devices) {
        return kd_fail(KD_ERR_NOT_FOUND,
                       "no CUDA device %d: found %d of compute capability %d.%d or more", number,
                       n_devices, CAPABILITY_MIN / 10, CAPABILITY_MIN % 10);
    }
    if (compute != KD_F32 && compute != KD_BF16) {
        return kd_fail(KD_ERR_ARG, "CUDA back end: found dtype %d, expected f32 or bf16",
                       static_cast<int>(compute));
    }
    const int capability = capability_of(number);
    kd_cuda *cuda = static_cast<kd_cuda *>(calloc(1, sizeof *cuda));
    if (cuda == nullptr) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a back end");
    }
    cuda->base.ops = &ops;
    cuda->base.device = {KD_DEVICE_CUDA, number, cuda->name};
    cuda->base.compute = compute;
    cuda->base.n_threads = 1;
    kd_kind_apply(KD_DEVICE_CUDA, &cuda->base);
    cuda->scratch.source = {take_block, give_block, cuda};
    const cudaError_t error = set_up(cuda, number);
    kd_status st = error == cudaSuccess ? kd_cuda_products_create(cuda->name, &cuda->products)
                                        : kd_fail(KD_ERR_IO, "CUDA device %d: %s", number,
                                                  cudaGetErrorString(error));
    if (!st) {
        st = kd_cuda_choose(capability, getenv("KD_CUDA_KERNELS"), &cuda->choice);
    }
    if (st) {
        kd_cuda_destroy(&cuda->base);
        return st;
    }
    say_unproven(cuda, capability);
    *be_out = &cuda->base;
    return KD_OK;
}
