/*
 * graph.cpp - what a stream captures instead of running it, and its launches.
 *
 * A graph is the work of one stream, in its order: events do not bring other streams in, which a device allows.
 * An executable takes what another graph has if that has as many pieces of work. Only the relaxed mode is here.
 */
#include "runtime.h"

using namespace kd_host;

struct CUgraph_st {
    std::vector<kd_host_work> work;
};

struct CUgraphExec_st {
    std::vector<kd_host_work> work;
};

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode)
{
    api_call call;
    auto s = handle ? stream_of(handle) : nullptr;
    if (!s)
        return answer(handle ? cudaErrorInvalidResourceHandle : cudaErrorStreamCaptureUnsupported);
    if (mode != cudaStreamCaptureModeRelaxed)
        return answer(cudaErrorNotSupported);
    if (s->capture)
        return answer(cudaErrorIllegalState);
    s->capture = std::make_shared<kd_host_capture>();
    return answer(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    api_call call;
    auto s = handle ? stream_of(handle) : nullptr;
    *graph = nullptr;
    if (!s || !s->capture)
        return answer(s ? cudaErrorIllegalState : cudaErrorInvalidResourceHandle);
    auto captured = std::move(s->capture);
    s->capture = nullptr;
    captured->over = true;
    if (captured->invalid)
        return answer(cudaErrorStreamCaptureInvalidated);
    if (!sticky_error())
        *graph = new CUgraph_st{std::move(captured->work)};
    return answer(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    api_call call;
    if (!graph || flags)
        return answer(cudaErrorInvalidValue);
    if (!sticky_error())
        *exec = new CUgraphExec_st{graph->work};
    return answer(cudaSuccess);
}

cudaError_t
cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *info)
{
    api_call call;
    if (!exec || !graph || !info)
        return answer(cudaErrorInvalidValue);
    const bool fits = exec->work.size() == graph->work.size();
    info->result = fits ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateErrorTopologyChanged;
    if (fits)
        exec->work = graph->work;
    return answer(fits ? cudaSuccess : cudaErrorGraphExecUpdateFailure);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    api_call call;
    if (!exec)
        return answer(cudaErrorInvalidValue);
    for (const kd_host_work &work : exec->work) {
        if (cudaError_t error = enqueue(stream, work))
            return answer(error);
    }
    return answer(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    api_call call;
    delete graph;
    return answer(graph ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    api_call call;
    delete exec; /* launches have their own copies */
    return answer(exec ? cudaSuccess : cudaErrorInvalidValue);
}
