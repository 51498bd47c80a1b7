/*
 * stream.cpp - streams and events: which queued work runs when.
 *
 * Nothing runs because it was queued; it runs because somebody waits for it or asks after it. Under seed 0
 * that is the least: the work asked for and what it has to wait for. Under other seeds streams advance in
 * random order, and also when work is queued, bound only by what the program asked for. So a missing event
 * or synchronisation shows. The fault of a kernel comes, as on a device, at a later call.
 */
#include "runtime.h"

#include <algorithm>
#include <chrono>

namespace kd_host
{
/* All streams, the legacy ones included, that are not destroyed or have work left. */
static std::vector<std::shared_ptr<CUstream_st>> &streams()
{
    static auto *all = new std::vector<std::shared_ptr<CUstream_st>>;
    return *all;
}

static std::shared_ptr<CUstream_st> legacy_stream(int device)
{
    static std::shared_ptr<CUstream_st> *legacy = new std::shared_ptr<CUstream_st>[8];
    if (!legacy[device]) {
        legacy[device] = std::make_shared<CUstream_st>();
        legacy[device]->device = device;
        legacy[device]->blocking = true;
        streams().push_back(legacy[device]);
    }
    return legacy[device];
}

std::shared_ptr<CUstream_st> stream_of(cudaStream_t handle)
{
    if (!handle)
        return legacy_stream(current_device());
    for (const auto &s : streams()) {
        if (s.get() == handle && !s->destroyed)
            return s;
    }
    return nullptr;
}

static cudaError_t refuse(CUstream_st &s)
{
    if (!s.capture)
        return cudaSuccess;
    s.capture->invalid = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t refuse_capture(cudaStream_t handle)
{
    auto s = stream_of(handle);
    return s ? refuse(*s) : cudaSuccess;
}

cudaError_t refuse_captures(int device)
{
    cudaError_t error = cudaSuccess;
    for (const auto &s : streams()) {
        if (s->device == device && s->capture)
            error = refuse(*s);
    }
    return error;
}

static const kd_host_mark *obstacle(const CUstream_st &s)
{
    for (const kd_host_mark &m : s.queue.front().after) {
        if (!m.reached())
            return &m;
    }
    return nullptr;
}

/* After a fault work is only dropped. */
static void run_front(CUstream_st &s)
{
    kd_host_work work = std::move(s.queue.front());
    s.queue.pop_front();
    if (!sticky_error(s.device)) {
        memory_open(work.device);
        engine().device = s.device;
        if (cudaError_t error = work.run())
            set_sticky_error(s.device, error);
    }
    s.n_done++;
}

/* One piece of work, which may be of another stream. There is one: marks are made before they are awaited. */
static void step_towards(CUstream_st *s)
{
    if (engine().seed && engine().rnd(2)) {
        std::vector<CUstream_st *> can;
        for (const auto &other : streams()) {
            if (!other->queue.empty() && !obstacle(*other))
                can.push_back(other.get());
        }
        s = can[engine().rnd(can.size())];
    }
    while (const kd_host_mark *m = obstacle(*s))
        s = m->stream.get();
    run_front(*s);
}

static void finish_mark(const kd_host_mark &m)
{
    while (!m.reached())
        step_towards(m.stream.get());
}

static kd_host_mark end_of(const std::shared_ptr<CUstream_st> &s)
{
    kd_host_mark m;
    m.stream = s;
    m.at = s->n_queued;
    return m;
}

static void forget_destroyed()
{
    auto &all = streams();
    auto gone = [](const auto &s) { return s->destroyed && s->queue.empty(); };
    all.erase(std::remove_if(all.begin(), all.end(), gone), all.end());
}

static void finish_one(const std::shared_ptr<CUstream_st> &s)
{
    finish_mark(end_of(s));
    forget_destroyed();
}

void finish_device(int device)
{
    auto all = streams();
    for (const auto &s : all) {
        if (device < 0 || s->device == device)
            finish_mark(end_of(s));
    }
    forget_destroyed();
}

cudaError_t finish(cudaStream_t handle)
{
    auto s = stream_of(handle);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (cudaError_t error = refuse(*s))
        return error;
    finish_one(s);
    return cudaSuccess;
}

/* What the legacy stream and the blocking ones wait for without being told. */
static void order_by_legacy(const std::shared_ptr<CUstream_st> &s, kd_host_work *work)
{
    auto legacy = legacy_stream(s->device);
    if (s != legacy) {
        if (s->blocking)
            work->after.push_back(end_of(legacy));
        return;
    }
    for (const auto &other : streams()) {
        if (other != s && other->blocking && other->device == s->device)
            work->after.push_back(end_of(other));
    }
}

cudaError_t enqueue(cudaStream_t handle, kd_host_work work)
{
    if (cudaError_t error = check_device(current_device()))
        return error;
    auto s = stream_of(handle);
    if (!s)
        return cudaErrorInvalidResourceHandle;
    if (s->capture) {
        if (s->capture->invalid)
            return cudaErrorStreamCaptureInvalidated;
        s->capture->work.push_back(std::move(work));
        return cudaSuccess;
    }
    order_by_legacy(s, &work);
    s->queue.push_back(std::move(work));
    s->n_queued++;
    while (engine().seed && engine().rnd(2) && !s->queue.empty())
        step_towards(s.get());
    return cudaSuccess;
}

cudaError_t
submit_kernel(cudaStream_t handle, const launch_shape &shape, std::function<cudaError_t()> run)
{
    api_call call;
    if (sticky_error())
        return answer(cudaSuccess);
    auto s = handle ? stream_of(handle) : nullptr;
    if (handle && (!s || s->device != current_device()))
        return answer(cudaErrorInvalidResourceHandle);
    if (!launch_is_valid(shape))
        return answer(cudaErrorInvalidConfiguration);
    auto checked = [run = std::move(run)] {
        cudaError_t error = run();
        return error || memory_fences_hold() ? error : cudaErrorLaunchFailure;
    };
    return answer(enqueue(handle, {checked, {}, current_device()}));
}
} // namespace kd_host

using namespace kd_host;

bool kd_host_mark::reached() const
{
    return !stream || stream->n_done >= at;
}

/* A mark in a stream and the time when it was passed; each record has one of its own. */
struct event_record {
    kd_host_mark mark;
    double time_ms = 0;
};

struct CUevent_st {
    bool timing;
    int device;
    std::shared_ptr<event_record> last;       /* null: never recorded                       */
    std::shared_ptr<kd_host_capture> capture; /* in which it was recorded last, if in any   */
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    api_call call;
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (flags & ~(unsigned)cudaStreamNonBlocking)
        return answer(cudaErrorInvalidValue);
    if (sticky_error())
        return answer(cudaSuccess);
    auto s = std::make_shared<CUstream_st>();
    s->device = current_device();
    s->blocking = !(flags & cudaStreamNonBlocking);
    streams().push_back(s);
    *stream = s.get();
    return answer(cudaSuccess);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    api_call call;
    auto s = handle ? stream_of(handle) : nullptr;
    if (!s)
        return answer(cudaErrorInvalidResourceHandle);
    s->destroyed = true; /* what it holds still runs */
    forget_destroyed();
    return answer(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    api_call call;
    return answer(finish(stream));
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    api_call call;
    auto s = stream_of(stream);
    if (!s)
        return answer(cudaErrorInvalidResourceHandle);
    if (cudaError_t error = refuse(*s))
        return answer(error);
    if (!s->queue.empty())
        step_towards(s.get());
    return answer(s->queue.empty() ? cudaSuccess : cudaErrorNotReady);
}

/* Within a capture, which is in order by itself, or across its border, which nothing may depend on. */
static cudaError_t wait_in_capture(CUstream_st &s, const CUevent_st &event)
{
    if (s.capture == event.capture)
        return cudaSuccess;
    for (kd_host_capture *c : {s.capture.get(), event.capture.get()}) {
        if (c)
            c->invalid = true;
    }
    return event.capture && event.capture->over ? cudaErrorCapturedEvent
                                                : cudaErrorStreamCaptureIsolation;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    api_call call;
    kd_host_work nothing = {[] { return cudaSuccess; }, {}, current_device()};
    auto s = stream_of(stream);
    if (!event || !s)
        return answer(cudaErrorInvalidResourceHandle);
    if (s->capture || event->capture)
        return answer(wait_in_capture(*s, *event));
    if (!event->last)
        return answer(cudaSuccess);
    nothing.after.push_back(event->last->mark);
    return answer(enqueue(stream, nothing));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    api_call call;
    if (cudaError_t error = check_device(current_device()))
        return answer(error);
    if (flags & ~(unsigned)cudaEventDisableTiming)
        return answer(cudaErrorInvalidValue);
    if (sticky_error())
        return answer(cudaSuccess);
    *event = new CUevent_st{!(flags & cudaEventDisableTiming), current_device(), nullptr, nullptr};
    return answer(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    api_call call;
    if (!event)
        return answer(cudaErrorInvalidResourceHandle);
    delete event; /* waits for it hold its record */
    return answer(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    api_call call;
    auto s = stream_of(handle);
    if (!event || !s || s->device != event->device)
        return answer(cudaErrorInvalidResourceHandle);
    event->capture = s->capture;
    if (s->capture)
        return answer(s->capture->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
    auto record = std::make_shared<event_record>();
    auto note_time = [record] {
        auto now = std::chrono::steady_clock::now().time_since_epoch();
        record->time_ms = std::chrono::duration<double, std::milli>(now).count();
        return cudaSuccess;
    };
    record->mark.stream = s;
    record->mark.at = s->n_queued + 1;
    event->last = record;
    return answer(enqueue(handle, {note_time, {}, current_device()}));
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    api_call call;
    if (!event)
        return answer(cudaErrorInvalidResourceHandle);
    if (event->capture)
        return answer(cudaErrorCapturedEvent);
    if (!event->last)
        return answer(cudaSuccess);
    const kd_host_mark &m = event->last->mark;
    if (!m.reached())
        step_towards(m.stream.get());
    return answer_of(event->device, m.reached() ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    api_call call;
    if (!event)
        return answer(cudaErrorInvalidResourceHandle);
    if (event->capture)
        return answer(cudaErrorCapturedEvent);
    if (event->last)
        finish_mark(event->last->mark);
    return answer_of(event->device, cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    api_call call;
    if (!start || !end || !start->timing || !end->timing || !start->last || !end->last)
        return answer(cudaErrorInvalidResourceHandle);
    if (!start->last->mark.reached() || !end->last->mark.reached())
        return answer(cudaErrorNotReady);
    *ms = (float)(end->last->time_ms - start->last->time_ms);
    return answer(cudaSuccess);
}
