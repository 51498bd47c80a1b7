/*
 * runtime.h - what the parts of the emulated runtime share.
 *
 * device.cpp      devices, errors, control by tests
 * memory.cpp      device and pinned memory
 * ipc.cpp         device memory that other processes open
 * stream.cpp      streams and events: who runs when
 * graph.cpp       what a stream captures, and its launches
 * copy.cpp        copies and fills
 */
#ifndef KD_CUDA_HOST_RUNTIME_PARTS_H
#define KD_CUDA_HOST_RUNTIME_PARTS_H

#include "engine.h"

#include <deque>
#include <memory>
#include <mutex>

/* How much of a stream has to be done. */
struct kd_host_mark {
    std::shared_ptr<CUstream_st> stream; /* null: nothing */
    uint64_t at = 0;

    bool reached() const;
};

struct kd_host_work {
    std::function<cudaError_t()> run;
    std::vector<kd_host_mark> after;
    int device; /* whose memory it may touch; -1: that of all */
};

/* What a stream was given since it captures. */
struct kd_host_capture {
    std::vector<kd_host_work> work;
    bool invalid = false; /* something was asked that cannot be captured */
    bool over = false;
};

struct CUstream_st {
    int device;
    bool blocking; /* waits for the legacy stream, and that for it */
    bool destroyed = false;
    uint64_t n_queued = 0, n_done = 0;
    std::deque<kd_host_work> queue;
    std::shared_ptr<kd_host_capture> capture; /* null: work is queued */
};

namespace kd_host
{
/* The frame of each call of the runtime: takes the lock, and closes device memory when the call returns. */
class api_call
{
  public:
    api_call();
    ~api_call();
    api_call(const api_call &) = delete;
    api_call &operator=(const api_call &) = delete;
};

/* What a call returns: the error of a failed kernel of the device if there is one, else its own, which it
 * remembers. The device is the current one unless it is named. */
cudaError_t answer(cudaError_t own);
cudaError_t answer_of(int device, cudaError_t own);
cudaError_t sticky_error();
cudaError_t sticky_error(int device);
/* A kernel has failed: from here on every call does that asks this device. */
void set_sticky_error(int device, cudaError_t error);
/* 0 with an answer of the device is among those there are. */
cudaError_t check_device(int device);
int current_device();
int device_count();
size_t device_bytes();

/* Opens the memory of a device, -1: of all, until the call returns. */
void memory_open(int device);
void memory_close();
/* After a kernel: a fault if somebody wrote behind an allocation. */
bool memory_fences_hold();

/* Where memory lies: a device, or one of these. */
enum { ON_HOST = -1, PINNED = -2 };

int memory_place(const void *p);
/* All n bytes lie in one allocation of that device. */
bool memory_holds(const void *p, size_t n);

/* Null if no such stream is there. */
std::shared_ptr<CUstream_st> stream_of(cudaStream_t handle);
/* An error, from which the capture does not recover, if the stream captures; of a device: if one of its does. */
cudaError_t refuse_capture(cudaStream_t stream);
cudaError_t refuse_captures(int device);

/* Queues work, or keeps it for the graph; null is the legacy stream of the current device. */
cudaError_t enqueue(cudaStream_t stream, kd_host_work work);
/* Runs what the stream holds, with what that waits for. */
cudaError_t finish(cudaStream_t stream);
/* Runs all of a device, -1: of all. */
void finish_device(int device);
} // namespace kd_host

#endif
