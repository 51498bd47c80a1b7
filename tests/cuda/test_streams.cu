/*
 * test_streams.cu - streams run late, in any order that events allow, and no other.
 *
 * What is undefined on a device is tried in the emulator only.
 */
#include "harness.h"
#include "kernels/kernels.h"

static __global__ void copy_number(int *to, const int *from)
{
    *to = *from;
}

static __global__ void add_number(int *to, int n)
{
    *to += n;
}

static cudaStream_t make_stream(unsigned flags = cudaStreamNonBlocking)
{
    cudaStream_t s;
    if (cudaStreamCreateWithFlags(&s, flags))
        abort();
    return s;
}

static cudaEvent_t make_event(unsigned flags = cudaEventDisableTiming)
{
    cudaEvent_t e;
    if (cudaEventCreateWithFlags(&e, flags))
        abort();
    return e;
}

/* Two streams take turns: the second normalises what the first has, if it waits for it. */
static cudaError_t take_turns(std::vector<__nv_bfloat16> &result,
                              const device_array<__nv_bfloat16> &x,
                              const device_array<float> &w,
                              bool wait)
{
    int cols = (int)w.n;
    device_array<__nv_bfloat16> y(w.n), z(w.n);
    cudaStream_t s[2] = {make_stream(), make_stream()};
    cudaEvent_t e[2] = {make_event(), make_event()};
    cudaError_t error = cudaDeviceSynchronize();
    for (int turn = 0; turn < 4 && !error; turn++) {
        if (turn && wait)
            error = cudaStreamWaitEvent(s[0], e[1], 0);
        if (!error)
            error = emu_rmsnorm(y.p, turn ? z.p : x.p, w.p, 1, cols, 1e-6f, s[0]);
        cudaEventRecord(e[0], s[0]);
        if (wait)
            cudaStreamWaitEvent(s[1], e[0], 0);
        if (!error)
            error = emu_rmsnorm(z.p, y.p, w.p, 1, cols, 1e-6f, s[1]);
        cudaEventRecord(e[1], s[1]);
    }
    if (!error)
        error = cudaEventSynchronize(e[1]);
    cudaDeviceSynchronize();
    result = z.get();
    for (int i = 0; i < 2; i++) {
        cudaStreamDestroy(s[i]);
        cudaEventDestroy(e[i]);
    }
    return error;
}

KD_TEST(streams, events_order_streams_and_a_missing_one_shows)
{
    device_array<__nv_bfloat16> x(kd_test_bf16(64, 1));
    std::vector<float> scale(64, 0.5f);
    for (size_t i = 0; i < 64; i += 3)
        scale[i] = 1.5f;
    device_array<float> w(scale);
    auto got = kd_test_schedules<__nv_bfloat16>("turns",
                                                [&](auto &r) { return take_turns(r, x, w, true); });
    int n_different = 0;
    for (unsigned seed = 0; seed < KD_TEST_SEEDS; seed++) {
        std::vector<__nv_bfloat16> r;
        kd_cuda_host_set_seed(seed);
        KD_EXPECT(!take_turns(r, x, w, false), "turns without events");
        n_different += !kd_test_same(r, got);
    }
    kd_cuda_host_set_seed(0);
#ifndef __CUDACC__
    KD_EXPECT(n_different > 0, "the missing events went unseen");
#endif
}

#ifndef __CUDACC__
KD_TEST(streams, nothing_runs_before_somebody_must_see_it)
{
    unsigned long long before = kd_cuda_host_work_done().n_launches;
    device_array<int> a(std::vector<int>{1});
    cudaStream_t s = make_stream(), other = make_stream();
    KD_EXPECT(!kd_launch(add_number, 1, 1, 1, 0, s, a.p, 1), "launch");
    KD_EXPECT(!kd_launch(add_number, 1, 1, 1, 0, nullptr, a.p, 1), "launch on the default stream");
    KD_EXPECT(kd_cuda_host_work_done().n_launches == before, "a launch ran at once");
    KD_EXPECT(!cudaStreamSynchronize(other), "another stream");
    KD_EXPECT(kd_cuda_host_work_done().n_launches == before, "waiting for another stream ran it");
    KD_EXPECT(!cudaStreamSynchronize(s), "the stream");
    KD_EXPECT(kd_cuda_host_work_done().n_launches == before + 1, "the stream alone");
    KD_EXPECT(!cudaDeviceSynchronize(), "the device");
    KD_EXPECT(kd_cuda_host_work_done().n_launches == before + 2, "the device");
    KD_EXPECT(a.get()[0] == 3, "the sum");
    cudaStreamDestroy(s);
    cudaStreamDestroy(other);
}

KD_TEST(streams, pinned_memory_is_read_when_the_copy_runs)
{
    int *pinned;
    std::vector<int> registered{5};
    device_array<int> a(2);
    cudaStream_t s = make_stream();
    if (cudaMallocHost(&pinned, sizeof *pinned) ||
        cudaHostRegister(registered.data(), sizeof(int), cudaHostRegisterDefault))
        abort();
    *pinned = 5;
    cudaMemcpyAsync(a.p, pinned, sizeof(int), cudaMemcpyHostToDevice, s);
    cudaMemcpyAsync(a.p + 1, registered.data(), sizeof(int), cudaMemcpyHostToDevice, s);
    *pinned = registered[0] = 6;
    KD_EXPECT(!cudaStreamSynchronize(s), "copies");
    KD_EXPECT(a.get() == std::vector<int>({6, 6}), "the overwritten source went unseen");
    *pinned = 0;
    cudaMemcpyAsync(pinned, a.p, sizeof(int), cudaMemcpyDeviceToHost, s);
    KD_EXPECT(*pinned == 0, "the copy to the host came at once");
    KD_EXPECT(!cudaStreamSynchronize(s) && *pinned == 6, "the copy to the host");
    cudaHostUnregister(registered.data());
    cudaFreeHost(pinned);
    cudaStreamDestroy(s);
}
#endif

KD_TEST(streams, pageable_memory_is_read_before_the_call_returns)
{
    for (unsigned seed = 0; seed < KD_TEST_SEEDS; seed++) {
        device_array<int> a(1);
        cudaStream_t s = make_stream();
        int number = 5, back = 0;
        kd_cuda_host_set_seed(seed);
        KD_EXPECT(!cudaMemcpyAsync(a.p, &number, sizeof number, cudaMemcpyHostToDevice, s), "in");
        number = 6;
        KD_EXPECT(!cudaMemcpyAsync(&back, a.p, sizeof back, cudaMemcpyDeviceToHost, s), "out");
        KD_EXPECT(back == 5, "found " + std::to_string(back));
        cudaStreamDestroy(s);
    }
    kd_cuda_host_set_seed(0);
}

KD_TEST(streams, the_default_stream_and_blocking_ones_wait_for_each_other)
{
    auto got = kd_test_schedules<int>("default stream", [&](auto &r) {
        device_array<int> a(std::vector<int>{7, 0, 0, 0});
        cudaStream_t s = make_stream(cudaStreamDefault), t = make_stream(cudaStreamDefault);
        cudaError_t error = kd_launch(copy_number, 1, 1, 1, 0, s, a.p + 1, a.p);
        if (!error)
            error = kd_launch(copy_number, 1, 1, 1, 0, nullptr, a.p + 2, a.p + 1);
        if (!error)
            error = kd_launch(copy_number, 1, 1, 1, 0, t, a.p + 3, a.p + 2);
        if (!error)
            error = cudaStreamSynchronize(t);
        r = a.get();
        cudaStreamDestroy(s);
        cudaStreamDestroy(t);
        return error;
    });
    KD_EXPECT(got == std::vector<int>({7, 7, 7, 7}), "found " + std::to_string(got[3]));
}

KD_TEST(streams, rows_are_copied_and_filled_by_pitch)
{
    std::vector<int> in{1, 2, 3, 4, 5, 6}, out(4);
    device_array<int> a(8);
    cudaStream_t s = make_stream();
    cudaMemset2DAsync(a.p, 16, 0, 16, 2, s);
    cudaMemcpy2DAsync(a.p, 16, in.data(), 12, 8, 2, cudaMemcpyHostToDevice, s);
    cudaMemcpy2DAsync(out.data(), 8, a.p + 1, 16, 8, 2, cudaMemcpyDeviceToHost, s);
    KD_EXPECT(!cudaStreamSynchronize(s), "copies");
    KD_EXPECT(out == std::vector<int>({2, 0, 5, 0}), "rows");
    cudaStreamDestroy(s);
}
