/*
 * test_kernels_hopper.cu - the same of kernels for sm_90a: clusters, TMA, wgmma.
 */
#include "harness.h"
#include "kernels/kernels.h"
#include "product.h"

#include <cmath>

KD_TEST(kernels, soft_loss)
{
    struct {
        int rows, vocab, cluster;
    } shapes[] = {{1, 1, 1},    {3, 17, 2},    {2, 1000, 1}, {4, 5003, 4},
                  {3, 5003, 8}, {2, 32001, 8}, {2, 9, 8}};

    for (auto [R, V, C] : shapes) {
        auto hz = kd_test_bf16((size_t)R * V, 6), ht = kd_test_bf16((size_t)R * V, 6);
        std::vector<int> hl(R);
        std::vector<double> loss(R), grad(hz.size());
        double T = 2, mix = 0.7;
        for (int r = 0; r < R; r++) {
            hl[r] = (r * 7919 + V - 1) % V;
            double a = 0, b = 0, h = 0, kl = 0;
            for (int v = 0; v < V; v++) {
                a += exp(kd_test_value(hz[r * V + v]) / T);
                b += exp(kd_test_value(ht[r * V + v]) / T);
                h += exp(kd_test_value(hz[r * V + v]));
            }
            for (int v = 0; v < V; v++) {
                double z = kd_test_value(hz[r * V + v]), p = exp(z / T) / a,
                       q = exp(kd_test_value(ht[r * V + v]) / T) / b;
                kl += q * (log(q) - log(p));
                grad[r * V + v] = mix * T * (p - q) + (1 - mix) * (exp(z) / h - (v == hl[r]));
            }
            loss[r] = mix * T * T * kl + (1 - mix) * (log(h) - kd_test_value(hz[r * V + hl[r]]));
        }
        device_array<__nv_bfloat16> z(hz), t(ht);
        device_array<int> label(hl);
        std::vector<float> l;
        auto got = kd_test_schedules<__nv_bfloat16>(
            kd_test_dims("soft_loss", {R, V, C}), [&, R = R, V = V, C = C](auto &r) {
                device_array<float> dl(R);
                device_array<__nv_bfloat16> dg(hz.size());
                cudaError_t e = emu_soft_loss(dl.p, dg.p, z.p, t.p, label.p, R, V, (float)T,
                                              (float)mix, C, nullptr);
                r = dg.get();
                l = dl.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(l, loss) < 1e-8, kd_test_dims("soft_loss", {R, V, C}) +
                                                    " nmse of loss " +
                                                    std::to_string(kd_test_nmse(l, loss)));
        KD_EXPECT(kd_test_nmse(got, grad) < 2e-5, kd_test_dims("soft_loss", {R, V, C}) +
                                                      " nmse of gradient " +
                                                      std::to_string(kd_test_nmse(got, grad)));
    }
}

KD_TEST(kernels, grouped_gemm)
{
    struct {
        int n, k;
        std::vector<int> rows;
    } shapes[] = {{128, 64, {128}},
                  {128, 256, {0, 5, 0, 195, 128, 0}},
                  {70, 72, {1, 129, 0, 3}},
                  {200, 200, {0, 0, 257}},
                  {8, 8, {2, 3, 4}}};

    for (auto &[N, K, rows] : shapes) {
        std::vector<int> off(1);
        for (int r : rows)
            off.push_back(off.back() + r);
        int E = rows.size(), R = off.back();
        auto hx = kd_test_bf16((size_t)R * K, 1), hw = kd_test_bf16((size_t)E * N * K, 1);
        std::vector<double> want;
        for (int e = 0; e < E; e++)
            for (double v : kd_test_product(hx, &hw[(size_t)e * N * K], rows[e], N, K, off[e]))
                want.push_back(v);
        device_array<__nv_bfloat16> x(hx), w(hw);
        device_array<int> offset(off);
        auto got = kd_test_schedules<__nv_bfloat16>(
            kd_test_dims("grouped_gemm", {E, R, N, K}), [&, N = N, K = K](auto &r) {
                device_array<__nv_bfloat16> y((size_t)R * N);
                cudaError_t e = emu_grouped_gemm(y.p, x.p, w.p, offset.p, E, R, N, K, nullptr);
                r = y.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(got, want) < 1e-5, kd_test_dims("grouped_gemm", {E, R, N, K}) +
                                                      " nmse " +
                                                      std::to_string(kd_test_nmse(got, want)));
    }
}
