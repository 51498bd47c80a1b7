/*
 * test_device.cu - the functions of tensor/cuda/device.h that kernels are written with.
 */
#include "harness.h"

template <class T> static __global__ void reduce_warp(T *out, const T *in)
{
    T v = in[threadIdx.x];
    out[threadIdx.x] = kd_warp_sum(v);
    out[32 + threadIdx.x] = kd_warp_max(v);
}

template <class T> static void check_warp(const char *name)
{
    std::vector<T> in(32);
    double sum = 0, top = -10;
    for (T &v : in) {
        v = kd_test_uniform();
        sum += (double)v;
        top = (double)v > top ? (double)v : top;
    }
    device_array<T> a(in);
    auto got = kd_test_schedules<T>(name, [&](auto &r) {
        device_array<T> out(64);
        cudaError_t error = kd_launch(reduce_warp<T>, 1, 32, 1, 0, nullptr, out.p, a.p);
        r = out.get();
        return error;
    });
    for (int i = 0; i < 32; i++) {
        KD_EXPECT(got[i] == got[0] && fabs((double)got[i] - sum) < 1e-5, name);
        KD_EXPECT((double)got[32 + i] == top, name);
    }
}

KD_TEST(device, warps_reduce_float_and_double)
{
    check_warp<float>("float");
    check_warp<double>("double");
}

/* Twice in a row, so that the second may not overtake the first. */
template <class T> static __global__ void reduce_block(T *out, const T *in)
{
    T v = in[threadIdx.x];
    T sum = kd_block_sum(v), squares = kd_block_sum(v * v), top = kd_block_max(v);
    T *mine = out + 3 * threadIdx.x;
    mine[0] = sum;
    mine[1] = squares;
    mine[2] = top;
}

template <class T> static void check_block(int n_threads)
{
    std::vector<T> in(n_threads);
    double want[3] = {0, 0, -10};
    for (T &v : in) {
        v = kd_test_uniform() - 2; /* all below zero: an empty lane must not be the largest */
        want[0] += (double)v;
        want[1] += (double)v * (double)v;
        want[2] = (double)v > want[2] ? (double)v : want[2];
    }
    device_array<T> a(in);
    auto got = kd_test_schedules<T>(kd_test_dims("block", {n_threads}), [&](auto &r) {
        device_array<T> out(3 * n_threads);
        cudaError_t error = kd_launch(reduce_block<T>, 1, n_threads, 1, 0, nullptr, out.p, a.p);
        r = out.get();
        return error;
    });
    for (int i = 0; i < 3 * n_threads; i++) {
        KD_EXPECT(got[i] == got[i % 3], kd_test_dims("not the same in thread", {i / 3}));
        KD_EXPECT(fabs((double)got[i] - want[i % 3]) < 1e-5 * fabs(want[i % 3]),
                  kd_test_dims("block", {n_threads, i}));
    }
}

KD_TEST(device, blocks_reduce_by_a_fixed_tree)
{
    for (int n : {32, 64, 96, 256, 1024}) {
        check_block<float>(n);
        check_block<double>(n);
    }
}

template <class T> static __global__ void scale_scalar(T *y, const T *x, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        kd_store(y + i, kd_load(x + i) * 3);
}

template <int W, class T> static __global__ void scale_vector(T *y, const T *x, int n)
{
    for (int i = (int)threadIdx.x * W; i < n; i += (int)blockDim.x * W) {
        float v[W];
        kd_load_vector(v, x + i);
        for (int j = 0; j < W; j++)
            v[j] *= 3;
        kd_store_vector(y + i, v);
    }
}

template <class T> static void check_elements(const std::vector<T> &in)
{
    device_array<T> x(in);
    auto run = [&](void (*kernel)(T *, const T *, int)) {
        return kd_test_schedules<T>("elements", [&](auto &r) {
            device_array<T> y(in.size());
            cudaError_t error = kd_launch(kernel, 1, 32, 1, 0, nullptr, y.p, x.p, (int)in.size());
            r = y.get();
            return error;
        });
    };
    auto by_one = run(scale_scalar<T>);
    KD_EXPECT(kd_test_same(by_one, run(scale_vector<1, T>)), "one element a time");
    KD_EXPECT(kd_test_same(by_one, run(scale_vector<4, T>)), "4 at once");
    KD_EXPECT(kd_test_same(by_one, run(scale_vector<8, T>)), "8 at once");
    for (size_t i = 0; i < in.size(); i++) {
        double want = 3 * kd_test_value(in[i]);
        KD_EXPECT(fabs(kd_test_value(by_one[i]) - want) <= fabs(want) / 256, std::to_string(i));
    }
}

KD_TEST(device, elements_are_loaded_and_stored_as_float)
{
    std::vector<float> in(1000);
    for (float &v : in)
        v = kd_test_uniform();
    check_elements(in);
    check_elements(kd_test_bf16(1000, 2));
}

KD_TEST(device, bf16_rounds_to_the_nearest_even)
{
    const float in[] = {1.0f, 1.00390625f, 1.01171875f, 1.00391f, -1.00390625f, 3.4e38f, 0.0f};
    const float want[] = {1.0f, 1.0f, 1.015625f, 1.0078125f, -1.0f, INFINITY, 0.0f};
    for (int i = 0; i < 7; i++)
        KD_EXPECT(__bfloat162float(__float2bfloat16(in[i])) == want[i], std::to_string(in[i]));
}

KD_TEST(device, alignment_of_rows_is_told)
{
    alignas(16) static __nv_bfloat16 rows[64];
    KD_EXPECT(kd_rows_are_aligned(rows, 8), "8 elements are 16 bytes");
    KD_EXPECT(!kd_rows_are_aligned(rows, 12), "a stride of 24 bytes");
    KD_EXPECT(!kd_rows_are_aligned(rows + 1, 8), "a begin at 2 bytes");
    KD_EXPECT(kd_rows_are_aligned((const float *)rows, 4), "4 floats");
}
