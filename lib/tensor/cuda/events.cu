/*
 * events.cu - a place in a queue, asked for without waiting, and the transfers that end with one. A device
 * that is lost would leave an event open for ever, so an error answers "past", and the fault is what who
 * waits then sees.
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

static cudaStream_t stream_of(kd_backend *be, kd_queue queue)
{
    return queue == KD_QUEUE_TRANSFERS ? kd_cuda_of(be)->transfers : kd_cuda_of(be)->stream;
}

static kd_event record(kd_backend *be, kd_queue queue)
{
    kd_cuda_events *events = &kd_cuda_of(be)->events[queue];
    const kd_event event = {be, ++events->n_recorded, queue};

    (void)kd_cuda_keep(
        be, cudaEventRecord(events->ring[event.number % KD_CUDA_EVENTS], stream_of(be, queue)),
        "recording an event");
    return event;
}

kd_event kd_cuda_event_record(kd_backend *be)
{
    return record(be, KD_QUEUE_OPERATIONS);
}

bool kd_cuda_event_query(kd_backend *be, kd_event event)
{
    kd_cuda_events *events = &kd_cuda_of(be)->events[event.queue];

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
static void wait_for(kd_backend *be, kd_queue queue, kd_event event)
{
    if (event.be == nullptr || (event.be == be && event.queue == queue)) {
        return;
    }
    if (event.be->device.kind == KD_DEVICE_CUDA) {
        kd_cuda_events *others = &kd_cuda_of(event.be)->events[event.queue];
        const uint64_t held = held_for(others, event.number);
        (void)kd_cuda_keep(
            be, cudaStreamWaitEvent(stream_of(be, queue), others->ring[held % KD_CUDA_EVENTS], 0),
            "waiting for another queue");
        if (event.be->device.number != be->device.number) {
            kd_cuda_of(be)->awaited |= uint64_t{1} << event.be->device.number;
        }
    } else {
        kd_event_sync(event);
    }
    if (event.be != be) {
        kd_backend_keep_fault(be, kd_backend_tell_fault(event.be));
    }
}

void kd_cuda_event_wait(kd_backend *be, kd_event event)
{
    wait_for(be, KD_QUEUE_OPERATIONS, event);
}

kd_event
kd_cuda_transfer(kd_backend *be, void *dst, const void *src, size_t size_bytes, kd_event after)
{
    wait_for(be, KD_QUEUE_TRANSFERS, after);
    if (be->fault == KD_OK && size_bytes > 0) {
        (void)kd_cuda_keep(be,
                           cudaMemcpyAsync(dst, src, size_bytes, cudaMemcpyDefault,
                                           stream_of(be, KD_QUEUE_TRANSFERS)),
                           "a transfer");
    }
    return record(be, KD_QUEUE_TRANSFERS);
}
