/*
 * device.cpp - the devices there are, the errors of calls, and what tests steer.
 */
#include "runtime.h"

#include <climits>
#include <cstdio>
#include <cstdlib>

namespace kd_host
{
static cudaError_t sticky[8]; /* of each device */
static thread_local cudaError_t last_error;
static thread_local int current;
static int depth;

static std::recursive_mutex &lock()
{
    static std::recursive_mutex *mutex = new std::recursive_mutex;
    return *mutex;
}

static unsigned long from_environment(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    char *end;
    if (!text || !*text)
        return otherwise;
    unsigned long value = strtoul(text, &end, 0);
    if (*end) {
        fprintf(stderr, "cuda_host: %s is '%s', expected a number\n", name, text);
        abort();
    }
    return value;
}

/* The first call of a process brings the seed in. */
static void start_once()
{
    static bool started;
    if (started)
        return;
    started = true;
    engine().seed = (unsigned)from_environment("KD_CUDA_HOST_SEED", 0);
    engine().rng = engine().seed * 0x9e3779b97f4a7c15ull + 1;
    engine().fault_at = from_environment("KD_CUDA_HOST_FAULT_AT", 0);
    engine().fault_device = (int)from_environment("KD_CUDA_HOST_FAULT_DEVICE", (unsigned long)-1);
}

api_call::api_call()
{
    lock().lock();
    depth++;
    start_once();
}

api_call::~api_call()
{
    if (--depth == 0)
        memory_close();
    lock().unlock();
}

cudaError_t sticky_error(int device)
{
    return sticky[device];
}

cudaError_t sticky_error()
{
    return sticky[current];
}

void set_sticky_error(int device, cudaError_t error)
{
    sticky[device] = error;
    fprintf(stderr, "cuda_host: %s\n", engine().fault.c_str());
}

cudaError_t answer(cudaError_t own)
{
    return answer_of(current, own);
}

cudaError_t answer_of(int device, cudaError_t own)
{
    if (sticky[device])
        return sticky[device];
    if (own) /* also that an event is not ready, as some runtimes: who goes on has to take it back */
        last_error = own;
    return own;
}

int device_count()
{
    static int n = (int)from_environment("KD_CUDA_HOST_DEVICES", 1);
    if (n < 0 || n > 8) {
        fprintf(stderr, "cuda_host: KD_CUDA_HOST_DEVICES is %d, expected 0 to 8\n", n);
        abort();
    }
    return n;
}

size_t device_bytes()
{
    static size_t n = from_environment("KD_CUDA_HOST_MEMORY", 4ul << 30);
    return n;
}

cudaError_t check_device(int device)
{
    if (!device_count())
        return cudaErrorNoDevice;
    return device < 0 || device >= device_count() ? cudaErrorInvalidDevice : cudaSuccess;
}

int current_device()
{
    return current;
}
} // namespace kd_host

using namespace kd_host;

cudaError_t cudaGetLastError()
{
    api_call call;
    cudaError_t error = sticky[current] ? sticky[current] : last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError()
{
    api_call call;
    return sticky[current] ? sticky[current] : last_error;
}

struct error_name {
    cudaError_t error;
    const char *name, *text;
};

static const error_name *find_error(cudaError_t error)
{
    static const error_name known[] = {
        {cudaSuccess, "cudaSuccess", "no error"},
        {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
        {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
        {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
        {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
         "invalid configuration argument"},
        {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
        {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
         "invalid copy direction for memcpy"},
        {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
        {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
        {cudaErrorDeviceUninitialized, "cudaErrorDeviceUninitialized", "invalid device context"},
        {cudaErrorMapBufferObjectFailed, "cudaErrorMapBufferObjectFailed",
         "mapping of buffer object failed"},
        {cudaErrorPeerAccessUnsupported, "cudaErrorPeerAccessUnsupported",
         "peer access is not supported between these two devices"},
        {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
         "invalid resource handle"},
        {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
        {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
         "an illegal memory access was encountered"},
        {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
         "part or all of the requested memory range is already mapped"},
        {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
         "pointer does not correspond to a registered memory region"},
        {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
        {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
        {cudaErrorIllegalState, "cudaErrorIllegalState",
         "the operation cannot be performed in the present state"},
        {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
         "operation not permitted when stream is capturing"},
        {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
         "operation failed due to a previous error during capture"},
        {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
         "dependency created on uncaptured work in another stream"},
        {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
         "operation not permitted on an event last recorded in a capturing stream"},
        {cudaErrorGraphExecUpdateFailure, "cudaErrorGraphExecUpdateFailure",
         "the graph update was not performed because it included changes which violated "
         "constraints "
         "specific to instantiated graph update"},
        {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
    };
    for (const error_name &e : known) {
        if (e.error == error)
            return &e;
    }
    return &known[sizeof known / sizeof *known - 1];
}

const char *cudaGetErrorName(cudaError_t error)
{
    return find_error(error)->name;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return find_error(error)->text;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    api_call call;
    *count = device_count();
    return answer(*count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    api_call call;
    cudaError_t error = check_device(device);
    if (!error)
        current = device;
    return answer(error);
}

cudaError_t cudaGetDevice(int *device)
{
    api_call call;
    *device = current;
    return answer(check_device(current));
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    api_call call;
    cudaError_t error = check_device(device);
    if (error)
        return answer(error);
    *prop = {};
    snprintf(prop->name, sizeof prop->name, "emulated device %d", device);
    memcpy(prop->uuid.bytes, "emulated device ", sizeof prop->uuid.bytes);
    prop->uuid.bytes[15] = (char)device;
    prop->totalGlobalMem = device_bytes();
    prop->sharedMemPerBlock = SMEM_STATIC_MAX;
    prop->sharedMemPerBlockOptin = SMEM_MAX;
    prop->sharedMemPerMultiprocessor = SMEM_MAX + 1024;
    prop->regsPerBlock = 65536;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxGridSize[0] = INT_MAX;
    prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
    prop->major = 9;
    prop->multiProcessorCount = 3;
    prop->maxThreadsPerMultiProcessor = 2048;
    prop->l2CacheSize = 1 << 20;
    prop->memoryBusWidth = 64;
    prop->asyncEngineCount = 2;
    prop->unifiedAddressing = prop->hostRegisterSupported = 1;
    prop->pciBusID = device + 1;
    return answer(cudaSuccess);
}

cudaError_t kd_host::clusters_at_once(unsigned cluster, int *n_out)
{
    int n = 0;
    cudaError_t error = cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0);
    if (!error)
        *n_out = n < (int)cluster ? 1 : n / (int)cluster;
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    api_call call;
    cudaDeviceProp prop;
    cudaError_t error = cudaGetDeviceProperties(&prop, device);
    if (error)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = prop.maxThreadsPerBlock;
        break;
    case cudaDevAttrWarpSize:
        *value = prop.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = prop.multiProcessorCount;
        break;
    case cudaDevAttrL2CacheSize:
        *value = prop.l2CacheSize;
        break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrHostRegisterSupported:
        *value = 1;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = prop.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = prop.minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)prop.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrIpcEventSupport:
        *value = 0;
        break;
    }
    return answer(cudaSuccess);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int size, int device)
{
    api_call call;
    cudaError_t error = check_device(device);
    if (!error && snprintf(id, (size_t)size, "0000:%02X:00.0", device + 1) >= size)
        error = cudaErrorInvalidValue;
    return answer(error);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    api_call call;
    cudaError_t error = check_device(device);
    if (!error)
        error = check_device(peer);
    *can = 0;
    return answer(error);
}

cudaError_t cudaDeviceSynchronize()
{
    api_call call;
    cudaError_t error = check_device(current);
    if (!error)
        error = refuse_captures(current);
    if (error)
        return answer(error);
    finish_device(current);
    return answer(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = device_count() ? 13000 : 0;
    return cudaSuccess;
}

void kd_cuda_host_set_seed(unsigned seed)
{
    api_call call;
    finish_device(-1);
    engine().seed = seed;
    engine().rng = seed * 0x9e3779b97f4a7c15ull + 1;
}

const char *kd_cuda_host_last_fault(void)
{
    return engine().fault.c_str();
}

void kd_cuda_host_recover(void)
{
    api_call call;
    finish_device(-1);
    for (cudaError_t &error : sticky)
        error = cudaSuccess;
    last_error = cudaSuccess;
    engine().fault.clear();
}

kd_cuda_host_work kd_cuda_host_work_done(void)
{
    api_call call;
    return engine().done;
}
