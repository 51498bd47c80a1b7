/*
 * events.cu - a place in the queue, asked for without waiting. A device that is lost would leave an event
 * open for ever, so an error answers "past", and the fault is what who waits then sees.
 */
#include "tensor/cuda/cuda.h"

cudaError_t kd_cuda_events_create(kd_cuda_events *events)
{
    cudaError_t error = cudaSuccess;

    *events = {};
    for (int i = 0; i < KD_CUDA_EVENTS && error == cudaSuccess; i++) {
        error = cudaEventCreateWithFlags(&events->ring[i], cudaEventDisableTiming);
    }
    return error;
}

void kd_cuda_events_destroy(kd_cuda_events *events)
{
    for (int i = 0; i < KD_CUDA_EVENTS && events->ring[i] != nullptr; i++) {
        (void)cudaEventDestroy(events->ring[i]);
    }
}

/* What the ring holds in that number's place: it, or the next that took its place. */
static uint64_t held_for(const kd_cuda_events *events, uint64_t number)
{
    return number + (events->n_recorded - number) / KD_CUDA_EVENTS * KD_CUDA_EVENTS;
}

kd_event kd_cuda_event_record(kd_backend *be)
{
    kd_cuda *cuda = kd_cuda_of(be);
    kd_cuda_events *events = &cuda->events;
    kd_event event = {be, ++events->n_recorded};

    (void)kd_cuda_keep(be,
                       cudaEventRecord(events->ring[event.number % KD_CUDA_EVENTS], cuda->stream),
                       "recording an event");
    return event;
}

bool kd_cuda_event_query(kd_backend *be, kd_event event)
{
    kd_cuda_events *events = &kd_cuda_of(be)->events;

    if (event.number <= events->n_past) {
        return true;
    }
    const uint64_t held = held_for(events, event.number);
    const cudaError_t error = cudaEventQuery(events->ring[held % KD_CUDA_EVENTS]);
    if (error == cudaErrorNotReady) {
        (void)cudaGetLastError(); /* lest a library that looks for errors of its own finds it */
        return false;
    }
    if (kd_cuda_keep(be, error, "an event")) {
        events->n_past = held;
    }
    return true;
}

/* On the device if the other queue is one too; a queue of the host is waited for here. */
void kd_cuda_event_wait(kd_backend *be, kd_event event)
{
    if (event.be == nullptr || event.be == be) {
        return;
    }
    if (event.be->device.kind == KD_DEVICE_CUDA) {
        kd_cuda_events *others = &kd_cuda_of(event.be)->events;
        const uint64_t held = held_for(others, event.number);
        (void)kd_cuda_keep(
            be, cudaStreamWaitEvent(kd_cuda_of(be)->stream, others->ring[held % KD_CUDA_EVENTS], 0),
            "waiting for another queue");
    } else {
        kd_event_sync(event);
    }
    kd_backend_keep_fault(be, kd_backend_tell_fault(event.be));
}
