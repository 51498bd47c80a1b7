/*
 * test_units.cu - units by themselves, in ways that no whole kernel here uses them.
 */
#include "harness.h"
#include "kernels/kernels.h"

KD_TEST(units, mn_major)
{
    auto ha = kd_test_bf16(16 * 64, 1), hb = kd_test_bf16(16 * 64, 1);
    device_array<__nv_bfloat16> a(ha), b(hb);
    std::vector<double> want(50 * 40);
    for (int i = 0; i < 50; i++)
        for (int j = 0; j < 40; j++)
            for (int k = 0; k < 16; k++)
                want[i * 40 + j] += kd_test_value(ha[k * 64 + i]) * kd_test_value(hb[k * 64 + j]);
    for (int swizzle = KD_SWIZZLE_NONE; swizzle <= KD_SWIZZLE_128; swizzle++) {
        auto got = kd_test_schedules<__nv_bfloat16>(
            kd_test_dims("wgmma mn-major, swizzle", {swizzle}), [&](auto &r) {
                device_array<__nv_bfloat16> d(50 *
                                              40); /* smaller than the tile: the store must clip */
                cudaError_t e = emu_unit_mn_major(swizzle, d.p, a.p, b.p, 50, 40, nullptr);
                r = d.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(got, want) < 1e-5,
                  kd_test_dims("wgmma mn-major, swizzle", {swizzle}) + " nmse " +
                      std::to_string(kd_test_nmse(got, want)));
    }
    want.assign(16 * 16, 0);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++)
                want[i * 16 + j] += kd_test_value(ha[i * 16 + k]) * kd_test_value(hb[k * 16 + j]);
    auto got = kd_test_schedules<float>("ldmatrix.trans", [&](auto &r) {
        device_array<float> d(16 * 16);
        cudaError_t e = emu_unit_mma_trans(d.p, a.p, b.p, nullptr);
        r = d.get();
        return e;
    });
    KD_EXPECT(kd_test_nmse(got, want) < 1e-10, "ldmatrix.trans");
}

KD_TEST(units, operands_of_several_boxes)
{
    auto ha = kd_test_bf16(64 * 64, 1), hb = kd_test_bf16(256 * 64, 1);
    device_array<__nv_bfloat16> a(ha), b(hb);
    for (bool by_k : {true, false}) {
        std::vector<double> want(64 * 256);
        for (int i = 0; i < 64; i++)
            for (int j = 0; j < 256; j++)
                for (int k = 0; k < 64; k++)
                    want[i * 256 + j] += kd_test_value(ha[by_k ? i * 64 + k : k * 64 + i]) *
                                         kd_test_value(hb[by_k ? j * 64 + k : k * 256 + j]);
        auto got =
            kd_test_schedules<float>(kd_test_dims("wgmma 64x256, by k", {by_k}), [&](auto &r) {
                device_array<float> d(64 * 256);
                cudaError_t e = emu_unit_wide(by_k, d.p, a.p, b.p, nullptr);
                r = d.get();
                return e;
            });
        KD_EXPECT(kd_test_nmse(got, want) < 1e-10, kd_test_dims("wgmma 64x256, by k", {by_k}) +
                                                       " nmse " +
                                                       std::to_string(kd_test_nmse(got, want)));
    }
}

KD_TEST(units, units)
{
    auto got = kd_test_schedules<int>("units", [&](auto &r) {
        device_array<int> out(8 * 64);
        cudaError_t e = emu_unit_mixed(out.p, nullptr);
        r = out.get();
        return e;
    });
    for (int b = 0; b < 8; b++)
        for (int t = 0; t < 64; t++) {
            auto v = [&](int i) { return (b + 3) % 4 * 100 + 63 - i; };
            int l = t % 32, s = l < 8 ? (l % 4 == 3 ? t : t + 1) : (l % 8 < 2 ? t : t - 2);
            KD_EXPECT(got[b * 64 + t] == v(t) + v(s) + (t / 32 * 32 + 31) + 16,
                      kd_test_dims("units", {b, t, got[b * 64 + t]}));
        }
}
