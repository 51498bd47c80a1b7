/*
 * test_kernels.cu - whole kernels against plain loops, under several schedules.
 */
#include "harness.h"
#include "kernels/kernels.h"

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
        auto got =
            kd_test_schedules<__nv_bfloat16>(kd_test_dims("rmsnorm", {rows, cols}), [&](auto &r) {
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
        auto got = kd_test_schedules<int>(kd_test_dims("route", {T, E, K}), [&](auto &r) {
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
        auto got =
            kd_test_schedules<__nv_bfloat16>(kd_test_dims("soft_loss", {R, V, C}), [&](auto &r) {
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

static std::vector<double>
product(const std::vector<__nv_bfloat16> &a, const __nv_bfloat16 *b, int m, int n, int k, int row0)
{
    std::vector<double> c((size_t)m * n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double s = 0;
            for (int x = 0; x < k; x++)
                s += kd_test_value(a[(size_t)(row0 + i) * k + x]) *
                     kd_test_value(b[(size_t)j * k + x]);
            c[(size_t)i * n + j] = s;
        }
    return c;
}

KD_TEST(kernels, gemm)
{
    struct {
        int m, n, k;
    } shapes[] = {{1, 1, 8}, {64, 64, 64}, {65, 70, 40}, {100, 130, 104}, {128, 192, 256}};

    for (auto [M, N, K] : shapes) {
        auto ha = kd_test_bf16((size_t)M * K, 1), hb = kd_test_bf16((size_t)N * K, 1);
        device_array<__nv_bfloat16> a(ha), b(hb);
        auto got = kd_test_schedules<float>(kd_test_dims("gemm", {M, N, K}), [&](auto &r) {
            device_array<float> c((size_t)M * N);
            cudaError_t e = emu_gemm(c.p, a.p, b.p, M, N, K, nullptr);
            r = c.get();
            return e;
        });
        KD_EXPECT(kd_test_nmse(got, product(ha, hb.data(), M, N, K, 0)) < 1e-10,
                  kd_test_dims("gemm", {M, N, K}));
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
            for (double v : product(hx, &hw[(size_t)e * N * K], rows[e], N, K, off[e]))
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
