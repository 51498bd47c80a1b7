/*
 * memory.h - device memory as memory.cpp keeps it and ipc.cpp shares it with other processes.
 */
#ifndef KD_CUDA_HOST_MEMORY_H
#define KD_CUDA_HOST_MEMORY_H

#include "runtime.h"

#include <map>
#include <set>

namespace kd_host
{
static const int DEVICES_MAX = 8;
static const size_t PAGE = 4096;

/* What was allocated, or of another process and is open here. */
struct memory_block {
    size_t bytes;
    size_t begin, end; /* in the device's range: what it takes up there, with its fence */
    bool exported;
    int file; /* another process's memory, which it shows; -1: it is this one's */
    int n_opened;
    uint64_t inode, source; /* of that file, and its offset there */
};

struct device_memory {
    char *base;
    size_t used, high;                     /* bytes; high: above it nothing was ever allocated */
    std::map<size_t, memory_block> blocks; /* by offset */
    bool open;
    size_t opened_bytes;         /* while it is: what was allocated since is not yet */
    int file = -1;               /* holds the pages that other processes may see */
    std::set<size_t> page_files; /* which those are, by number */
};

device_memory *memories();
/* Null if it is of no device. */
device_memory *memory_of(const void *p);
/* Takes the device's addresses if that is yet to be done; false: there are none. */
bool memory_reserve(device_memory *m);
/* The addresses of a device, in bytes: more than it has memory, for the fences. */
size_t range_bytes();
/* With its fence, in the steps that allocations are made in. */
size_t padded(size_t n);
/* Where n bytes are free, from a multiple of `align` on; what ends above range_bytes() is not. */
size_t find_gap(const device_memory &m, size_t n, size_t align);
/* What is below `high` may be touched until the call of the runtime ends. */
void memory_raise(device_memory *m, size_t high);

/* Whether another process has a block open that was exported; then it is no more. */
bool ipc_withdraw(const device_memory &m, size_t at);
} // namespace kd_host

#endif
