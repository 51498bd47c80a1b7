/*
 * harness.cu - the list of tests and their run.
 */
#include "harness.h"

#include <chrono>

struct entry {
    std::string suite, claim;
    void (*run)();
};

static std::vector<entry> &tests()
{
    static std::vector<entry> all;
    return all;
}

static int n_failures;

kd_test::kd_test(const char *suite, const char *claim, void (*run)())
{
    tests().push_back({suite, claim, run});
}

void kd_test_failed(const char *file, int line, const std::string &text)
{
    if (++n_failures <= 20)
        printf("%s:%d: %s   %s\n", file, line, text.c_str(), kd_cuda_host_last_fault());
}

float kd_test_uniform()
{
    static unsigned rng = 1;
    rng = rng * 1664525 + 1013904223;
    return (float)(rng >> 8) / 8388608.0f - 1;
}

std::vector<__nv_bfloat16> kd_test_bf16(size_t n, float scale)
{
    std::vector<__nv_bfloat16> v(n);
    for (auto &x : v)
        x = __float2bfloat16(kd_test_uniform() * scale);
    return v;
}

std::string kd_test_dims(const char *what, const std::vector<int> &dims)
{
    std::string text = what;
    for (int x : dims)
        text += " " + std::to_string(x);
    return text;
}

static double now()
{
    auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(time).count();
}

int main(int argc, char **argv)
{
    int n_run = 0;
    for (const entry &test : tests()) {
        if (argc > 1 && test.suite != argv[1])
            continue;
        double start = now();
        int before = n_failures;
        test.run();
        n_run++;
        printf("%-6s %6.2f s  %s/%s\n", n_failures > before ? "FAILED" : "ok", now() - start,
               test.suite.c_str(), test.claim.c_str());
    }
    if (!n_run)
        printf("there is no suite %s\n", argv[1]);
    return n_failures || !n_run;
}
