/*
 * memory.cpp - device memory: one reserved range of addresses a device, closed to everybody while no work
 * of the device runs; and the list of pinned host memory.
 *
 * Every allocation starts as NaN and has a fence behind it. Under AddressSanitizer the fence is poisoned.
 */
#include "memory.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <unistd.h>

namespace kd_host
{
static const size_t ALIGN = 512, FENCE_BYTES = 256;

device_memory *memories()
{
    static device_memory *all = new device_memory[DEVICES_MAX]();
    return all;
}

static std::map<const char *, size_t> &pinned()
{
    static auto *all = new std::map<const char *, size_t>;
    return *all;
}

size_t padded(size_t n)
{
    return (n + FENCE_BYTES + ALIGN - 1) / ALIGN * ALIGN;
}

size_t range_bytes()
{
    return (device_bytes() + device_bytes() / 4 + (64u << 20)) / PAGE * PAGE;
}

static size_t open_bytes(const device_memory &m)
{
    return (m.high + PAGE - 1) / PAGE * PAGE;
}

device_memory *memory_of(const void *p)
{
    for (int d = 0; d < DEVICES_MAX; d++) {
        device_memory &m = memories()[d];
        if (m.base && (const char *)p >= m.base && (const char *)p < m.base + range_bytes())
            return &m;
    }
    return nullptr;
}

static struct sigaction other_handler;

/* Says what the address is, then does what would have been done without. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
    const device_memory *m = memory_of(info->si_addr);
    char text[200];
    if (m) {
        int n =
            snprintf(text, sizeof text, "cuda_host: %s touches memory of device %d at byte %zu%s\n",
                     self ? "a kernel" : "the host", (int)(m - memories()),
                     (size_t)((char *)info->si_addr - m->base),
                     m->open ? ", where nothing was allocated" : ", which is not open to it");
        if (write(STDERR_FILENO, text, (size_t)n) < 0)
            _exit(1);
    }
    if (other_handler.sa_flags & SA_SIGINFO) {
        other_handler.sa_sigaction(signal, info, context);
        return;
    }
    sigaction(signal, &other_handler, nullptr); /* the access is tried again, and ends as it does */
}

static void watch_faults()
{
    struct sigaction ours = {};
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &ours, &other_handler);
}

bool memory_reserve(device_memory *m)
{
    static bool watching;
    if (!watching)
        watch_faults();
    watching = true;
    if (m->base)
        return true;
    void *p =
        mmap(nullptr, range_bytes(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    m->base = (char *)p;
    return true;
}

/* Opening and closing costs more than small kernels do, so it has to be asked for. */
static bool closes()
{
    static bool asked = getenv("KD_CUDA_HOST_CLOSED") != nullptr;
    return asked;
}

static void protect(device_memory *m, bool open)
{
    if (!m->high || (!open && (!m->open || !closes())))
        return;
    if (open && m->open && m->opened_bytes >= open_bytes(*m))
        return;
    if (mprotect(m->base, open_bytes(*m), open ? PROT_READ | PROT_WRITE : PROT_NONE)) {
        perror("cuda_host: mprotect");
        abort();
    }
    m->open = open;
    m->opened_bytes = open ? open_bytes(*m) : 0;
}

void memory_open(int device)
{
    for (int d = 0; d < DEVICES_MAX; d++)
        protect(&memories()[d], device < 0 || d == device);
}

void memory_close()
{
    for (int d = 0; d < DEVICES_MAX; d++)
        protect(&memories()[d], false);
}

/* The first that is large enough. */
size_t find_gap(const device_memory &m, size_t n, size_t align)
{
    size_t at = 0;
    for (const auto &[offset, block] : m.blocks) {
        if (at <= block.begin && block.begin - at >= n)
            return at;
        at = (block.end + align - 1) / align * align;
    }
    return at;
}

void memory_raise(device_memory *m, size_t high)
{
    protect(m, false);
    if (high > m->high)
        m->high = high;
    protect(m, true);
}

static void fill(device_memory *m, size_t at, size_t n)
{
    char *p = m->base + at;
    memory_raise(m, at + padded(n));
    ASAN_UNPOISON_MEMORY_REGION(p, padded(n));
    memset(p, UNINITIALISED, n);
    memset(p + n, FENCE, padded(n) - n);
    ASAN_POISON_MEMORY_REGION(p + n, padded(n) - n);
}

static const char *broken_fence(const device_memory &m, size_t offset, size_t n)
{
    const char *fence = m.base + offset + n;
    for (size_t i = 0; i < FENCE_BYTES; i++) {
        if (fence[i] != FENCE)
            return fence + i;
    }
    return nullptr;
}

bool memory_fences_hold()
{
    for (int d = 0; !KD_ASAN && d < DEVICES_MAX; d++) {
        const device_memory &m = memories()[d];
        if (!m.open)
            continue;
        for (const auto &[offset, block] : m.blocks) {
            const char *p = broken_fence(m, offset, block.bytes);
            if (!p)
                continue;
            engine().fault = "somebody wrote outside global memory: at byte " +
                             std::to_string(p - m.base - (long)offset) + " of an allocation of " +
                             std::to_string(block.bytes) + " bytes";
            return false;
        }
    }
    return true;
}

int memory_place(const void *p)
{
    if (const device_memory *m = memory_of(p))
        return (int)(m - memories());
    auto next = pinned().upper_bound((const char *)p);
    if (next == pinned().begin())
        return ON_HOST;
    --next;
    return (const char *)p < next->first + next->second ? PINNED : ON_HOST;
}

bool memory_holds(const void *p, size_t n)
{
    const device_memory *m = memory_of(p);
    size_t at = (size_t)((const char *)p - m->base);
    auto next = m->blocks.upper_bound(at);
    if (next == m->blocks.begin())
        return false;
    --next;
    size_t before = at - next->first, bytes = next->second.bytes;
    return before <= bytes && n <= bytes - before;
}
} // namespace kd_host

using namespace kd_host;

cudaError_t kd_host_malloc(void **p, size_t n)
{
    api_call call;
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (sticky_error())
        return answer(cudaSuccess);
    device_memory *m = &memories()[current_device()];
    *p = nullptr;
    if (!n)
        return answer(cudaSuccess);
    if (n > device_bytes() - m->used || !memory_reserve(m))
        return answer(cudaErrorMemoryAllocation);
    size_t at = find_gap(*m, padded(n), ALIGN);
    if (at + padded(n) > range_bytes())
        return answer(cudaErrorMemoryAllocation);
    fill(m, at, n);
    m->blocks[at] = {n, at, at + padded(n), false, -1, 0, 0, 0};
    m->used += n;
    *p = m->base + at;
    KD_RACE(allocated(*p, n));
    return answer(cudaSuccess);
}

cudaError_t cudaFree(void *p)
{
    api_call call;
    device_memory *m = memory_of(p);
    if (!p)
        return answer(cudaSuccess);
    auto block = m ? m->blocks.find((size_t)((char *)p - m->base)) : decltype(m->blocks.end())();
    if (!m || block == m->blocks.end() || block->second.file >= 0)
        return answer(cudaErrorInvalidValue);
    finish_device((int)(m - memories()));
    if (block->second.exported && ipc_withdraw(*m, block->first)) {
        engine().fault = "memory is freed that another process has open";
        set_sticky_error((int)(m - memories()), cudaErrorIllegalAddress);
    }
    KD_RACE(allocated(p, 0));
    ASAN_POISON_MEMORY_REGION(p, padded(block->second.bytes));
    m->used -= block->second.bytes;
    m->blocks.erase(block);
    return answer(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    api_call call;
    cudaError_t error = check_device(current_device());
    *total_bytes = device_bytes();
    *free_bytes = device_bytes() - memories()[current_device()].used;
    return answer(error);
}

cudaError_t kd_host_malloc_pinned(void **p, size_t n)
{
    api_call call;
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (posix_memalign(p, 4096, n ? n : 1))
        return answer(cudaErrorMemoryAllocation);
    memset(*p, UNINITIALISED, n);
    pinned()[(const char *)*p] = n;
    return answer(cudaSuccess);
}

cudaError_t cudaFreeHost(void *p)
{
    api_call call;
    if (!p)
        return answer(cudaSuccess);
    finish_device(-1);
    if (!pinned().erase((const char *)p))
        return answer(cudaErrorInvalidValue);
    free(p);
    return answer(cudaSuccess);
}

cudaError_t cudaHostRegister(void *p, size_t n, unsigned)
{
    api_call call;
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (!p || !n)
        return answer(cudaErrorInvalidValue);
    auto next = pinned().lower_bound((const char *)p);
    bool overlaps = next != pinned().end() && next->first < (const char *)p + n;
    if (overlaps || memory_place(p) == PINNED)
        return answer(cudaErrorHostMemoryAlreadyRegistered);
    pinned()[(const char *)p] = n;
    return answer(cudaSuccess);
}

cudaError_t cudaHostUnregister(void *p)
{
    api_call call;
    finish_device(-1);
    return answer(pinned().erase((const char *)p) ? cudaSuccess : cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes *attributes, const void *p)
{
    api_call call;
    int place = memory_place(p);
    *attributes = {};
    attributes->device = place >= 0 ? place : current_device();
    attributes->type = place >= 0        ? cudaMemoryTypeDevice
                       : place == PINNED ? cudaMemoryTypeHost
                                         : cudaMemoryTypeUnregistered;
    if (place != ON_HOST)
        attributes->devicePointer = const_cast<void *>(p);
    if (place < 0)
        attributes->hostPointer = const_cast<void *>(p);
    return answer(cudaSuccess);
}

unsigned long long kd_cuda_host_allocated_bytes(void)
{
    api_call call;
    unsigned long long n = 0;
    for (int d = 0; d < DEVICES_MAX; d++)
        n += memories()[d].used;
    return n;
}
