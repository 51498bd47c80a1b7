/*
 * test_graphs.cu - a captured stream runs nothing, launches run what was captured, and what cannot be captured
 * is refused where it is asked.
 */
#include "harness.h"

static __global__ void append(int *to, int n)
{
    *to = *to * 10 + n;
}

struct captured_stream {
    cudaStream_t stream = nullptr;

    captured_stream()
    {
        if (cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))
            abort();
    }

    ~captured_stream()
    {
        cudaStreamDestroy(stream);
    }

    captured_stream(const captured_stream &) = delete;
    captured_stream &operator=(const captured_stream &) = delete;

    void begin()
    {
        KD_EXPECT(!cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "begin");
    }

    void append_numbers(int *to, int first, int n)
    {
        for (int i = 0; i < n; i++)
            KD_EXPECT(!kd_launch(append, 1, 1, 1, 0, stream, to, first + i), "launch");
    }

    cudaGraph_t end()
    {
        cudaGraph_t graph = nullptr;
        KD_EXPECT(!cudaStreamEndCapture(stream, &graph) && graph, "end");
        return graph;
    }
};

static int number(const device_array<int> &array)
{
    cudaDeviceSynchronize();
    return array.get()[0];
}

KD_TEST(graphs, a_capture_runs_nothing_and_launches_run_it_in_order)
{
    device_array<int> at(std::vector<int>{0});
    captured_stream s;
    cudaGraphExec_t exec = nullptr;
    s.begin();
    s.append_numbers(at.p, 1, 3);
    cudaGraph_t graph = s.end();
    KD_EXPECT(number(at) == 0, "before a launch");
    KD_EXPECT(!cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    KD_EXPECT(!cudaGraphDestroy(graph), "the executable stays");
    KD_EXPECT(!cudaGraphLaunch(exec, s.stream) && !cudaGraphLaunch(exec, s.stream), "launch");
    s.append_numbers(at.p, 9, 1);
    KD_EXPECT(number(at) == 1231239, std::to_string(number(at)));
    KD_EXPECT(!cudaGraphExecDestroy(exec), "destroy");
}

KD_TEST(graphs, an_update_gives_new_arguments_and_leaves_launches_before_it)
{
    device_array<int> at(std::vector<int>{0});
    captured_stream s;
    cudaGraphExec_t exec = nullptr;
    cudaGraphExecUpdateResultInfo info = {};
    for (int turn = 0; turn < 2; turn++) {
        s.begin();
        s.append_numbers(at.p, 1 + 2 * turn, 2);
        cudaGraph_t graph = s.end();
        KD_EXPECT(!(turn ? cudaGraphExecUpdate(exec, graph, &info)
                         : cudaGraphInstantiate(&exec, graph, 0)),
                  "made");
        KD_EXPECT(!cudaGraphLaunch(exec, s.stream) && !cudaGraphDestroy(graph), "launched");
    }
    KD_EXPECT(number(at) == 1234, std::to_string(number(at)));
    s.begin();
    s.append_numbers(at.p, 1, 3);
    cudaGraph_t longer = s.end();
    KD_EXPECT(cudaGraphExecUpdate(exec, longer, &info) == cudaErrorGraphExecUpdateFailure,
              "another topology is refused");
    KD_EXPECT(info.result == cudaGraphExecUpdateErrorTopologyChanged, "and named");
    cudaGetLastError();
    cudaGraphDestroy(longer);
    cudaGraphExecDestroy(exec);
}

/* Ends a capture into which something came that it cannot hold. */
static void expect_invalid(captured_stream *s, const char *what)
{
    cudaGraph_t graph = nullptr;
    KD_EXPECT(cudaStreamEndCapture(s->stream, &graph) == cudaErrorStreamCaptureInvalidated, what);
    KD_EXPECT(!graph, what);
    cudaGetLastError();
}

KD_TEST(graphs, what_waits_or_asks_is_refused_while_a_stream_captures)
{
    captured_stream s;
    s.begin();
    KD_EXPECT(cudaStreamSynchronize(s.stream) == cudaErrorStreamCaptureUnsupported, "synchronise");
    expect_invalid(&s, "after a synchronisation");
    s.begin();
    KD_EXPECT(cudaStreamQuery(s.stream) == cudaErrorStreamCaptureUnsupported, "query");
    expect_invalid(&s, "after a query");
    KD_EXPECT(!cudaStreamSynchronize(s.stream), "afterwards the stream is as before");
}

/* What a device does here is not written down. */
#ifndef __CUDACC__
KD_TEST(graphs, the_device_is_not_waited_for_while_a_stream_captures)
{
    captured_stream s;
    s.begin();
    KD_EXPECT(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported, "the device");
    expect_invalid(&s, "after it");
}

KD_TEST(graphs, pageable_memory_is_refused_while_a_stream_captures)
{
    device_array<int> at(std::vector<int>{0});
    captured_stream s;
    int host = 1;
    s.begin();
    KD_EXPECT(cudaMemcpyAsync(at.p, &host, sizeof host, cudaMemcpyHostToDevice, s.stream) ==
                  cudaErrorStreamCaptureUnsupported,
              "a copy of it");
    expect_invalid(&s, "after the copy");
}
#endif

KD_TEST(graphs, events_do_not_cross_the_border_of_a_capture)
{
    captured_stream s, other;
    cudaEvent_t inside, outside;
    if (cudaEventCreateWithFlags(&inside, cudaEventDisableTiming) ||
        cudaEventCreateWithFlags(&outside, cudaEventDisableTiming))
        abort();
    KD_EXPECT(!cudaEventRecord(outside, other.stream), "recorded outside");
    s.begin();
    KD_EXPECT(cudaStreamWaitEvent(s.stream, outside, 0) == cudaErrorStreamCaptureIsolation,
              "awaited inside");
    expect_invalid(&s, "after that wait");
    s.begin();
    KD_EXPECT(!cudaEventRecord(inside, s.stream), "recorded inside");
    KD_EXPECT(!cudaStreamWaitEvent(s.stream, inside, 0), "and awaited there");
    KD_EXPECT(cudaEventQuery(inside) == cudaErrorCapturedEvent, "asked");
    cudaGetLastError();
    cudaGraphDestroy(s.end());
    KD_EXPECT(cudaEventQuery(inside) == cudaErrorCapturedEvent, "asked afterwards");
    KD_EXPECT(cudaStreamWaitEvent(other.stream, inside, 0) != cudaSuccess, "awaited outside");
    cudaGetLastError();
    KD_EXPECT(!cudaEventRecord(inside, s.stream) && !cudaEventSynchronize(inside),
              "recorded outside it is as any");
    cudaEventDestroy(inside);
    cudaEventDestroy(outside);
}
