/*
 * ipc.cpp - device memory that other processes may open. Pages of a device are its process's alone until what
 * lies in them is exported: then they move into a file without a name, at the offset they have on the device,
 * and who has the handle opens that file through /proc/PID/fd. As on a device, what lies in the same pages as
 * the exported allocation is shared with it.
 *
 * Two bytes behind the device's addresses stand for each allocation, as locks of that file: the first is locked
 * while it is exported, the second by those who have it open. Locks end with their process.
 */
#include "memory.h"

#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace kd_host
{
static const uint64_t MAGIC = 0x6b645f6970633031; /* "kd_ipc01" */

/* A handle's bytes. */
struct memory_name {
    uint64_t magic;
    int32_t pid, file, device;
    uint64_t inode, at, bytes;
};

static_assert(sizeof(memory_name) <= sizeof(cudaIpcMemHandle_t), "a name fits a handle");

static const size_t NOT_OPENED = SIZE_MAX;

enum lock_byte { EXPORTED, OPENED };

static struct flock lock_of(size_t at, lock_byte which, short type)
{
    struct flock lock = {};
    lock.l_type = type;
    lock.l_whence = SEEK_SET;
    lock.l_start = (off_t)(range_bytes() + at + which);
    lock.l_len = 1;
    return lock;
}

static bool take_lock(int file, size_t at, lock_byte which, short type)
{
    struct flock lock = lock_of(at, which, type);
    return fcntl(file, F_OFD_SETLK, &lock) == 0;
}

/* By another open file than this one. */
static bool is_locked(int file, size_t at, lock_byte which)
{
    struct flock lock = lock_of(at, which, F_WRLCK);
    return fcntl(file, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool ipc_withdraw(const device_memory &m, size_t at)
{
    take_lock(m.file, at, EXPORTED, F_UNLCK);
    return is_locked(m.file, at, OPENED);
}

/* Tests of what does without. */
static bool is_supported()
{
    static const char *asked = getenv("KD_CUDA_HOST_IPC");
    return !asked || strcmp(asked, "0") != 0;
}

static bool make_file(device_memory *m)
{
    if (m->file >= 0)
        return true;
    int file = memfd_create("cuda_host", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)range_bytes())) {
        close(file);
        return false;
    }
    m->file = file;
    return true;
}

/* A page keeps its address and what is in it. The call is made by its number, for a sanitizer would not have
 * fences read. */
static bool move_to_file(device_memory *m, size_t page)
{
    char *p = m->base + page * PAGE;
    off_t at = (off_t)(page * PAGE);
    if (m->page_files.count(page))
        return true;
    if (syscall(SYS_pwrite64, m->file, p, PAGE, at) != (long)PAGE ||
        mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->file, at) == MAP_FAILED)
        return false;
    m->page_files.insert(page);
    return true;
}

static size_t page_after(size_t at)
{
    return (at + PAGE - 1) / PAGE;
}

static cudaError_t export_block(device_memory *m, size_t at, memory_block *block)
{
    if (!make_file(m))
        return cudaErrorNotSupported;
    memory_raise(m, page_after(block->end) * PAGE);
    for (size_t page = block->begin / PAGE; page < page_after(block->end); page++) {
        if (!move_to_file(m, page))
            return cudaErrorMemoryAllocation;
    }
    if (!take_lock(m->file, at, EXPORTED, F_RDLCK))
        return cudaErrorNotSupported;
    block->exported = true;
    return cudaSuccess;
}

/* Another process's file, through its number there; -1 with the reason. */
static int open_named(const memory_name &name, cudaError_t *error_out)
{
    struct stat info;
    std::string path = "/proc/" + std::to_string(name.pid) + "/fd/" + std::to_string(name.file);
    int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    *error_out = cudaErrorMapBufferObjectFailed;
    if (file < 0)
        return -1;
    if (!fstat(file, &info) && info.st_ino == name.inode && name.bytes <= range_bytes() &&
        name.at <= range_bytes() - name.bytes && is_locked(file, name.at, EXPORTED) &&
        take_lock(file, name.at, OPENED, F_RDLCK))
        return file;
    *error_out = cudaErrorInvalidResourceHandle;
    close(file);
    return -1;
}

/* By its offset here, what this process has open of that name; or NOT_OPENED. */
static size_t find_opened(const device_memory &m, const memory_name &name)
{
    for (const auto &[at, block] : m.blocks) {
        if (block.file >= 0 && block.inode == name.inode && block.source == name.at)
            return at;
    }
    return NOT_OPENED;
}

/* The same offset within a page as there: the pages are the same. */
static cudaError_t open_block(device_memory *m, const memory_name &name, int file, size_t *at_out)
{
    size_t first = name.at / PAGE * PAGE, end = page_after(name.at + padded(name.bytes)) * PAGE;
    size_t begin = memory_reserve(m) ? find_gap(*m, end - first, PAGE) : range_bytes();
    if (begin > range_bytes() - (end - first))
        return cudaErrorMemoryAllocation;
    size_t at = begin + name.at % PAGE;
    char *p = m->base + at;
    if (mmap(m->base + begin, end - first, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
             (off_t)first) == MAP_FAILED)
        return cudaErrorMapBufferObjectFailed;
    memory_raise(m, begin + (end - first));
    ASAN_UNPOISON_MEMORY_REGION(p, name.bytes);
    ASAN_POISON_MEMORY_REGION(p + name.bytes, padded(name.bytes) - name.bytes);
    KD_RACE(allocated(p, name.bytes));
    m->blocks[at] = {name.bytes, begin, begin + (end - first), false, file, 1, name.inode, name.at};
    *at_out = at;
    return cudaSuccess;
}

/* Its addresses are the device's own again. */
static cudaError_t close_block(device_memory *m, size_t at, const memory_block &block)
{
    char *pages = m->base + block.begin;
    KD_RACE(allocated(m->base + at, 0));
    memory_raise(m, block.end);
    if (mmap(pages, block.end - block.begin, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return cudaErrorUnknown;
    ASAN_POISON_MEMORY_REGION(pages, block.end - block.begin);
    close(block.file); /* and the lock with it */
    m->blocks.erase(at);
    return cudaSuccess;
}
} // namespace kd_host

using namespace kd_host;

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *p)
{
    api_call call;
    device_memory *m = memory_of(p);
    struct stat info;
    auto block = m ? m->blocks.find((size_t)((char *)p - m->base)) : decltype(m->blocks.end())();
    if (!m || block == m->blocks.end() || block->second.file >= 0)
        return answer(cudaErrorInvalidValue);
    cudaError_t error =
        is_supported() ? export_block(m, block->first, &block->second) : cudaErrorNotSupported;
    if (error || fstat(m->file, &info))
        return answer(error ? error : cudaErrorNotSupported);
    memory_name name = {
        MAGIC,        (int32_t)getpid(),  m->file, (int32_t)(m - memories()), info.st_ino,
        block->first, block->second.bytes};
    *handle = {};
    memcpy(handle, &name, sizeof name);
    return answer(cudaSuccess);
}

/* Devices of the emulator have no peers, so one of another device's memory is refused. */
static cudaError_t check_name(const memory_name &name, unsigned flags)
{
    if (flags != cudaIpcMemLazyEnablePeerAccess)
        return cudaErrorInvalidValue;
    if (!is_supported())
        return cudaErrorNotSupported;
    if (name.magic != MAGIC)
        return cudaErrorInvalidResourceHandle;
    if (name.pid == getpid())
        return cudaErrorDeviceUninitialized;
    return name.device == current_device() ? cudaSuccess : cudaErrorPeerAccessUnsupported;
}

cudaError_t cudaIpcOpenMemHandle(void **p, cudaIpcMemHandle_t handle, unsigned flags)
{
    api_call call;
    memory_name name;
    memcpy(&name, &handle, sizeof name);
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (cudaError_t error = check_name(name, flags))
        return answer(error);
    device_memory *m = &memories()[current_device()];
    cudaError_t error;
    int file = open_named(name, &error);
    if (file < 0)
        return answer(error);
    size_t at = find_opened(*m, name);
    if (at != NOT_OPENED) {
        close(file);
        m->blocks[at].n_opened++;
    } else if ((error = open_block(m, name, file, &at))) {
        close(file);
        return answer(error);
    }
    *p = m->base + at;
    return answer(cudaSuccess);
}

cudaError_t cudaIpcCloseMemHandle(void *p)
{
    api_call call;
    device_memory *m = memory_of(p);
    auto block = m ? m->blocks.find((size_t)((char *)p - m->base)) : decltype(m->blocks.end())();
    if (!m || block == m->blocks.end() || block->second.file < 0)
        return answer(cudaErrorInvalidValue);
    finish_device((int)(m - memories()));
    if (--block->second.n_opened > 0)
        return answer(cudaSuccess);
    return answer(close_block(m, block->first, block->second));
}
