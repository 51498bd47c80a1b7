/*
 * test_kernels.cu - whole kernels against plain loops, under several schedules: those that every GPU runs.
 */
#include "harness.h"
#include "kernels/kernels.h"
#include "product.h"

#include <cmath>
#include <utility>

KD_TEST(kernels, rmsnorm)
{
    for (auto [rows, cols] : {std::pair{1, 1}, {3, 37}, {5, 128}, {2, 1000}, {7, 4096}}) {
        auto hx = kd_test_bf16((size_t)rows * cols, 3);
        std::vector<float> hw(cols);
        for (auto &w : hw)
            w = kd_test_uniform();
        std::vector<double> want(hx.size());
        for (int r = 0; r < rows; r++) {
            double s = 0;
            for (int c = 0; c < cols; c++)
                s += kd_test_value(hx[r * cols + c]) * kd_test_value(hx[r * cols + c]);
            for (int c = 0; c < cols; c++)
                want[r * cols + c] =
                    kd_test_value(hx[r * cols + c]) / sqrt(s / cols + 1e-6) * (double)hw[c];
        }
        device_array<__nv_bfloat16> x(hx);
        device_array<float> w(hw);
        auto got = kd_test_schedules<__nv_bfloat16>(
            kd_test_dims("rmsnorm", {rows, cols}), [&, rows = rows, cols = cols](auto &r) {
                device_array<__nv_bfloat16> y(hx.size());
                cudaError_t e = emu_rmsnorm(y.p, x.p, w.p, rows, cols, 1e-6f, nullptr);
                r = y.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(got, want) < 1e-5, kd_test_dims("rmsnorm", {rows, cols}) + " nmse " +
                                                      std::to_string(kd_test_nmse(got, want)));
    }
}

KD_TEST(kernels, route)
{
    struct {
        int tokens, experts, k;
    } shapes[] = {{0, 8, 2},    {1, 4, 1},     {7, 8, 2},   {64, 60, 4},
                  {65, 128, 8}, {300, 256, 8}, {130, 33, 3}};

    for (auto [T, E, K] : shapes) {
        std::vector<float> hl((size_t)T * E);
        for (auto &l : hl)
            l = roundf(kd_test_uniform() * 20) / 4; /* coarse: ties occur */
        std::vector<int> expert(T * K), place(T * K), offset(E + 1);
        std::vector<double> weight(T * K);
        for (int t = 0; t < T; t++) {
            std::vector<bool> used(E);
            double sum = 0;
            for (int k = 0; k < K; k++) {
                int best = -1;
                for (int e = 0; e < E; e++)
                    if (!used[e] && (best < 0 || hl[t * E + e] > hl[t * E + best]))
                        best = e;
                used[best] = true;
                expert[t * K + k] = best;
                sum += weight[t * K + k] = exp(hl[t * E + best]);
            }
            for (int k = 0; k < K; k++)
                weight[t * K + k] /= sum;
        }
        for (int e = 0, n = 0; e < E; e++) {
            for (int i = 0; i < T * K; i++)
                if (expert[i] == e)
                    place[i] = n++;
            offset[e + 1] = n;
        }
        device_array<float> logits(hl);
        std::vector<float> w;
        auto got = kd_test_schedules<int>(
            kd_test_dims("route", {T, E, K}), [&, T = T, E = E, K = K](auto &r) {
                device_array<int> de(T * K), dp(T * K), off(E + 1),
                    count((T + EMU_ROUTE_TILE - 1) / EMU_ROUTE_TILE * E);
                device_array<float> dw(T * K);
                cudaError_t e =
                    emu_route({de.p, dw.p, dp.p, off.p, count.p}, logits.p, T, E, K, nullptr);
                r = de.get();
                for (int v : dp.get())
                    r.push_back(v);
                for (int v : off.get())
                    r.push_back(v);
                w = dw.get();
                return e;
            });
        std::vector<int> want = expert;
        want.insert(want.end(), place.begin(), place.end());
        want.insert(want.end(), offset.begin(), offset.end());
        KD_EXPECT(got == want, kd_test_dims("route", {T, E, K}));
        KD_EXPECT(kd_test_nmse(w, weight) < 1e-10, kd_test_dims("route weights", {T, E, K}));
    }
}

KD_TEST(kernels, gemm)
{
    struct {
        int m, n, k;
    } shapes[] = {{1, 1, 8}, {64, 64, 64}, {65, 70, 40}, {100, 130, 104}, {128, 192, 256}};

    for (auto [M, N, K] : shapes) {
        auto ha = kd_test_bf16((size_t)M * K, 1), hb = kd_test_bf16((size_t)N * K, 1);
        device_array<__nv_bfloat16> a(ha), b(hb);
        auto got = kd_test_schedules<float>(
            kd_test_dims("gemm", {M, N, K}), [&, M = M, N = N, K = K](auto &r) {
                device_array<float> c((size_t)M * N);
                cudaError_t e = emu_gemm(c.p, a.p, b.p, M, N, K, nullptr);
                r = c.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(got, kd_test_product(ha, hb.data(), M, N, K, 0)) < 1e-10,
                  kd_test_dims("gemm", {M, N, K}));
    }
}
