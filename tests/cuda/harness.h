/*
 * harness.h - tests of the emulator and of what kernels are written with. No test library: the same programs
 * are compiled by nvcc for a device, where the schedules are repetitions.
 *
 * KD_TEST(suite, claim) { ... } is a test; KD_EXPECT(condition, format, ...) notes a failure and goes on. The
 * program's argument is a suite, none: all.
 */
#ifndef KD_TESTS_CUDA_HARNESS_H
#define KD_TESTS_CUDA_HARNESS_H

#include "tensor/cuda/device.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#ifdef __CUDACC__
static inline void kd_cuda_host_set_seed(unsigned)
{
}

static inline const char *kd_cuda_host_last_fault(void)
{
    return "";
}
#endif

struct kd_test {
    kd_test(const char *suite, const char *claim, void (*run)());
};

void kd_test_failed(const char *file, int line, const std::string &text);

#define KD_TEST(suite, claim)                                                                      \
    static void suite##_##claim();                                                                 \
    static kd_test suite##_##claim##_entry(#suite, #claim, suite##_##claim);                       \
    static void suite##_##claim()
#define KD_EXPECT(condition, text)                                                                 \
    do {                                                                                           \
        if (!(condition))                                                                          \
            kd_test_failed(__FILE__, __LINE__, std::string(#condition ": ") + (text));             \
    } while (0)

/* -1 to 1, the same at each run. */
float kd_test_uniform();
std::vector<__nv_bfloat16> kd_test_bf16(size_t n, float scale);
std::string kd_test_dims(const char *what, const std::vector<int> &dims);

/* Device memory, at its exact size; its copies run on the default stream. */
template <class T> struct device_array {
    T *p;
    size_t n;

    explicit device_array(size_t count) : p(nullptr), n(count)
    {
        if (n && cudaMalloc(&p, n * sizeof(T)))
            abort();
    }

    explicit device_array(const std::vector<T> &v) : device_array(v.size())
    {
        if (n && cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice))
            abort();
    }

    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;

    ~device_array()
    {
        cudaFree(p);
    }

    std::vector<T> get() const
    {
        std::vector<T> v(n);
        cudaError_t error =
            n ? cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost) : cudaSuccess;
        KD_EXPECT(!error, cudaGetErrorString(error));
        return v;
    }
};

static inline double kd_test_value(float x)
{
    return x;
}

static inline double kd_test_value(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* Normalised mean square error; that of a NaN, of memory nobody wrote, fails every comparison. */
template <class T> double kd_test_nmse(const std::vector<T> &got, const std::vector<double> &want)
{
    double e = 0, s = 1e-30;
    for (size_t i = 0; i < want.size(); i++) {
        double d = kd_test_value(got[i]) - want[i];
        e += d * d;
        s += want[i] * want[i];
    }
    return e / s;
}

template <class T> bool kd_test_same(const std::vector<T> &a, const std::vector<T> &b)
{
    return a.size() == b.size() && (a.empty() || !memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

/* run(&result) under each schedule; every one must give what the first gave, bit for bit. */
static const unsigned KD_TEST_SEEDS = 5;

template <class T, class F> std::vector<T> kd_test_schedules(const std::string &what, F run)
{
    std::vector<T> first;
    for (unsigned seed = 0; seed < KD_TEST_SEEDS; seed++) {
        std::vector<T> result;
        kd_cuda_host_set_seed(seed);
        cudaError_t error = run(result);
        KD_EXPECT(!error,
                  what + " seed " + std::to_string(seed) + ": " + cudaGetErrorString(error));
        if (seed == 0)
            first = result;
        KD_EXPECT(kd_test_same(result, first), what + ": the result depends on the schedule");
    }
    kd_cuda_host_set_seed(0);
    return first;
}

#endif
