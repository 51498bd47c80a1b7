/*
 * events.h - the events of a queue: a ring of the runtime's, recorded again and again.
 *
 * A queue runs in order, so an event is past once any later one of its queue is. So an older event than
 * the ring holds is answered by the one that took its place: perhaps later than need be, never too early.
 *
 * Threads: that of the back end whose queue it is.
 */
#ifndef KD_TENSOR_CUDA_EVENTS_H
#define KD_TENSOR_CUDA_EVENTS_H

#include "tensor/cuda/device.h"
#include "tensor/ops.h"

enum { KD_CUDA_EVENTS = 64 };

struct kd_cuda_events {
    cudaEvent_t ring[KD_CUDA_EVENTS]; /* number n stands at n mod KD_CUDA_EVENTS   */
    uint64_t n_recorded;              /* numbers 1 to this                         */
    uint64_t n_past;                  /* up to this number they are known to be past */
};

cudaError_t kd_cuda_events_create(kd_cuda_events *events);
void kd_cuda_events_destroy(kd_cuda_events *events); /* also where create stopped half way */

#endif
