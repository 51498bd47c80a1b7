/*
 * test_events.cu - events: when they are complete, what they measure; and errors of launches.
 */
#include "harness.h"

static __global__ void set_number(int *to, int n)
{
    *to = n;
}

KD_TEST(events, an_event_is_polled_to_its_end)
{
    device_array<int> a(1);
    cudaStream_t s;
    cudaEvent_t e;
    if (cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) ||
        cudaEventCreateWithFlags(&e, cudaEventDisableTiming))
        abort();
    KD_EXPECT(cudaEventQuery(e) == cudaSuccess, "never recorded: complete");
    for (int i = 0; i < 5; i++)
        KD_EXPECT(!kd_launch(set_number, 1, 1, 1, 0, s, a.p, i), "launch");
    KD_EXPECT(!cudaEventRecord(e, s), "record");
    int n_polls = 0;
    cudaError_t error;
    while ((error = cudaEventQuery(e)) == cudaErrorNotReady)
        n_polls++;
    KD_EXPECT(!error, cudaGetErrorName(error));
    error = cudaGetLastError();
#ifndef __CUDACC__
    KD_EXPECT(error == cudaErrorNotReady, "remembered, as some runtimes do");
    KD_EXPECT(n_polls == 5, "polls: " + std::to_string(n_polls));
#endif
    KD_EXPECT(a.get()[0] == 4, "the last launch");
    cudaEventDestroy(e);
    cudaStreamDestroy(s);
}

KD_TEST(events, an_event_stands_for_its_last_record)
{
    device_array<int> a(1);
    cudaStream_t s;
    cudaEvent_t e;
    if (cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking) || cudaEventCreate(&e))
        abort();
    cudaEventRecord(e, s);
    KD_EXPECT(!cudaEventSynchronize(e), "first record");
    KD_EXPECT(!kd_launch(set_number, 1, 1, 1, 0, s, a.p, 3), "launch");
    cudaEventRecord(e, s);
    KD_EXPECT(!cudaEventSynchronize(e) && cudaStreamQuery(s) == cudaSuccess, "second record");
    KD_EXPECT(a.get()[0] == 3, "the launch before it");
    cudaEventDestroy(e);
    cudaStreamDestroy(s);
}

KD_TEST(events, time_passes_between_two_of_them)
{
    float ms = -1;
    cudaEvent_t e[3];
    if (cudaEventCreate(&e[0]) || cudaEventCreate(&e[1]) ||
        cudaEventCreateWithFlags(&e[2], cudaEventDisableTiming))
        abort();
    for (cudaEvent_t event : e)
        cudaEventRecord(event);
#ifndef __CUDACC__
    KD_EXPECT(cudaEventElapsedTime(&ms, e[0], e[1]) == cudaErrorNotReady, "before the end");
#endif
    cudaDeviceSynchronize();
    KD_EXPECT(!cudaEventElapsedTime(&ms, e[0], e[1]) && ms >= 0, std::to_string(ms));
    KD_EXPECT(cudaEventElapsedTime(&ms, e[0], e[2]) == cudaErrorInvalidResourceHandle,
              "one without timing");
    KD_EXPECT(cudaGetLastError() == cudaErrorInvalidResourceHandle, "remembered");
    KD_EXPECT(cudaGetLastError() == cudaSuccess, "once");
    for (cudaEvent_t event : e)
        cudaEventDestroy(event);
}

KD_TEST(events, a_launch_beyond_the_limits_is_refused_at_once)
{
    device_array<int> a(1);
    KD_EXPECT(kd_launch(set_number, 1, 1025, 1, 0, nullptr, a.p, 1), "1025 threads");
    KD_EXPECT(kd_launch(set_number, dim3(1, 65536), 1, 1, 0, nullptr, a.p, 1), "65536 rows");
    KD_EXPECT(kd_launch(set_number, 0, 1, 1, 0, nullptr, a.p, 1), "no block");
    KD_EXPECT(kd_launch(set_number, 1, 1, 1, 256 << 10, nullptr, a.p, 1),
              "256 KiB of shared memory");
    cudaGetLastError();
    KD_EXPECT(!cudaDeviceSynchronize(), "and does no harm");
}

#ifndef __CUDACC__
static __global__ void trap()
{
    __trap();
}

KD_TEST(events, a_fault_stays_until_recovery)
{
    device_array<int> a(std::vector<int>{1});
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    KD_EXPECT(!kd_launch(trap, 1, 32, 1, 0, s), "the launch itself");
    KD_EXPECT(!kd_launch(set_number, 1, 1, 1, 0, s, a.p, 2), "the next one");
    KD_EXPECT(cudaStreamSynchronize(s) == cudaErrorLaunchFailure, "the wait");
    KD_EXPECT(strstr(kd_cuda_host_last_fault(), "__trap()"), "the text");
    KD_EXPECT(cudaGetLastError() == cudaErrorLaunchFailure, "the last error");
    KD_EXPECT(cudaGetLastError() == cudaErrorLaunchFailure, "which stays");
    int *p;
    KD_EXPECT(cudaMalloc(&p, 4) == cudaErrorLaunchFailure, "as for every call");
    kd_cuda_host_recover();
    KD_EXPECT(a.get()[0] == 1, "what came after a fault never ran");
    KD_EXPECT(!cudaStreamDestroy(s), "the stream is there");
}
#endif
