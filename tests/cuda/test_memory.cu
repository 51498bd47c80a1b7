/*
 * test_memory.cu - device memory: limits, who may touch it, where it lies.
 */
#include "harness.h"

#ifndef __CUDACC__
#include <sys/wait.h>
#include <unistd.h>

/* Does it end by a signal, or as a sanitizer ends programs? */
static bool dies(void (*run)())
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(0);
        run();
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && (!WIFEXITED(status) || WEXITSTATUS(status));
}

static int *number;

KD_TEST(memory, the_host_cannot_touch_it)
{
    device_array<int> a(std::vector<int>{42});
    number = a.p;
    KD_EXPECT(dies([] { _exit(*(volatile int *)number == 42 ? 0 : 0); }), "a read");
    KD_EXPECT(dies([] { *(volatile int *)number = 1; }), "a write");
    KD_EXPECT(a.get()[0] == 42, "a copy can");
}

KD_TEST(memory, what_was_not_written_is_nan)
{
    device_array<float> a(3);
    for (float v : a.get())
        KD_EXPECT(v != v, std::to_string(v));
}

KD_TEST(memory, more_than_there_is_is_refused)
{
    size_t free_bytes, total, rest;
    char *p = nullptr, *q;
    KD_EXPECT(!cudaMemGetInfo(&free_bytes, &total), "info");
    KD_EXPECT(total == 64 << 20, "KD_CUDA_HOST_MEMORY is 64 MiB here");
    KD_EXPECT(cudaMalloc(&q, total + 1) == cudaErrorMemoryAllocation, "all and one byte");
    KD_EXPECT(!cudaMalloc(&p, free_bytes - 100), "nearly all");
    KD_EXPECT(cudaMalloc(&q, 101) == cudaErrorMemoryAllocation, "one byte more");
    KD_EXPECT(cudaGetLastError() == cudaErrorMemoryAllocation, "remembered");
    KD_EXPECT(!cudaMemGetInfo(&rest, &total) && rest == 100, std::to_string(rest));
    KD_EXPECT(!cudaFree(p), "free");
    KD_EXPECT(!cudaMemGetInfo(&rest, &total) && rest == free_bytes, std::to_string(rest));
    KD_EXPECT(cudaFree(p) == cudaErrorInvalidValue, "twice");
    cudaGetLastError();
}
#endif

KD_TEST(memory, a_copy_that_does_not_fit_is_refused)
{
    device_array<int> a(4);
    int host[5] = {};
#ifndef __CUDACC__
    KD_EXPECT(cudaMemcpy(a.p, host, sizeof host, cudaMemcpyHostToDevice) == cudaErrorInvalidValue,
              "past the end");
    KD_EXPECT(cudaMemset(a.p + 1, 0, 16) == cudaErrorInvalidValue, "a fill past the end");
#endif
    KD_EXPECT(cudaMemcpy(host, host + 1, 4, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue,
              "no device memory");
    cudaGetLastError();
    KD_EXPECT(!cudaMemcpy(a.p, host, 16, cudaMemcpyDefault), "the direction by the addresses");
}

KD_TEST(memory, pointers_tell_where_they_lie)
{
    device_array<int> a(1);
    int host[2], *pinned;
    cudaPointerAttributes where;
    if (cudaMallocHost(&pinned, 4))
        abort();
    KD_EXPECT(!cudaPointerGetAttributes(&where, a.p) && where.type == cudaMemoryTypeDevice,
              "device");
    KD_EXPECT(!cudaPointerGetAttributes(&where, pinned) && where.type == cudaMemoryTypeHost,
              "pinned");
    KD_EXPECT(!cudaPointerGetAttributes(&where, host) && where.type == cudaMemoryTypeUnregistered,
              "host");
    cudaFreeHost(pinned);
}

KD_TEST(memory, registered_memory_is_told_apart)
{
    alignas(4096) static char page[4096];
    KD_EXPECT(!cudaHostRegister(page, sizeof page, cudaHostRegisterDefault), "register");
    KD_EXPECT(cudaHostRegister(page, 64, 0) == cudaErrorHostMemoryAlreadyRegistered, "twice");
    KD_EXPECT(!cudaHostUnregister(page), "unregister");
    KD_EXPECT(cudaHostUnregister(page) == cudaErrorHostMemoryNotRegistered, "twice");
    cudaGetLastError();
}

KD_TEST(devices, there_are_as_many_as_asked_for)
{
    int n = -1;
    const char *asked = getenv("KD_CUDA_HOST_DEVICES");
    int expected = asked ? atoi(asked) : 1;
    cudaError_t error = cudaGetDeviceCount(&n);
    KD_EXPECT(n == expected, std::to_string(n));
    KD_EXPECT(error == (n ? cudaSuccess : cudaErrorNoDevice), cudaGetErrorName(error));
    KD_EXPECT(cudaSetDevice(n) == (n ? cudaErrorInvalidDevice : cudaErrorNoDevice), "one too many");
    cudaGetLastError();
    for (int d = 0; d < n; d++) {
        cudaDeviceProp prop;
        size_t free_bytes, total;
        char *p;
        KD_EXPECT(!cudaSetDevice(d) && !cudaGetDeviceProperties(&prop, d), std::to_string(d));
        KD_EXPECT(!cudaMalloc(&p, 1000) && !cudaMemset(p, 1, 1000), "memory of it");
        KD_EXPECT(!cudaMemGetInfo(&free_bytes, &total) && free_bytes == total - 1000,
                  "and no other");
        KD_EXPECT(!cudaFree(p), "free");
    }
}
