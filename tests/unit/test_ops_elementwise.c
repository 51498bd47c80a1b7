#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "tensor/cpu/vec_math.h"
#include "tests/support/ops_check.h"

Test(ops_elementwise, exp_is_within_two_and_a_half_ulp)
{
    double worst = 0.0;
    for (float x = -87.0f; x < 88.0f; x += 0.0037f) {
        const double exact = exp((double)x);
        const double ulp = (double)(nextafterf((float)exact, INFINITY) - (float)exact);
        worst = fmax(worst, fabs((double)kd_exp(x) - exact) / ulp);
    }
    cr_expect_leq(worst, 2.5, "%g ulp", worst);
    cr_expect_lt(kd_exp(-1e30f), 1e-37f);
    cr_expect_eq(kd_exp(0.0f), 1.0f);
    cr_expect(isnan(kd_exp(NAN)));
}

Test(ops_elementwise, sigmoid_has_its_digits_on_both_sides)
{
    for (float x = -80.0f; x < 80.0f; x += 0.037f) {
        const double exact = 1.0 / (1.0 + exp(-(double)x));
        cr_expect_float_eq((double)kd_sigmoid(x), exact, 5e-7 * exact, "%g", (double)x);
    }
    cr_expect(isnan(kd_sigmoid(NAN)));
}

Test(ops_elementwise, bf16_rounds_to_nearest_even_and_keeps_nan)
{
    cr_expect_eq(kd_bf16_from_f32(1.0f), 0x3f80);
    cr_expect_eq(kd_bf16_from_f32(1.00390625f), 0x3f80, "a tie goes down to even");
    cr_expect_eq(kd_bf16_from_f32(1.01171875f), 0x3f82, "a tie goes up to even");
    cr_expect_eq(kd_bf16_from_f32(1.00390637f), 0x3f81, "above a tie goes up");
    cr_expect_eq(kd_bf16_from_f32(INFINITY), 0x7f80);
    cr_expect_eq(kd_bf16_from_f32(3.4e38f), 0x7f80);
    cr_expect(isnan(kd_bf16_to_f32(kd_bf16_from_f32(NAN))));
    const kd_float_bits low_payload = {.bits = 0xff800001u};
    cr_expect(isnan(kd_bf16_to_f32(kd_bf16_from_f32(low_payload.value))));
    for (uint32_t bits = 0; bits < 0x7f80; bits++) {
        cr_assert_eq(kd_bf16_from_f32(kd_bf16_to_f32((uint16_t)bits)), bits);
    }
}

Test(ops_elementwise, copies_cast_between_strided_and_packed)
{
    kd_backend *be = kd_test_backend(KD_BF16, 2);
    const kd_tensor f32 = kd_test_padded(KD_F32, 17, 33, 4, 1);
    const kd_tensor bf16 = kd_test_padded(KD_BF16, 17, 33, 2, 2);
    const kd_tensor back = kd_test_zeros(KD_F32, 17, 33), twin = kd_test_zeros(KD_BF16, 17, 33);
    be->ops->copy(be, bf16, f32);
    be->ops->copy(be, twin, bf16);
    be->ops->copy(be, back, twin);
    cr_expect_eq(kd_test_nmse(back, bf16), 0.0);
    cr_expect_lt(kd_test_nmse(back, f32), 1e-5);
    cr_expect_gt(kd_test_nmse(back, f32), 1e-7);
    kd_test_free(f32);
    kd_test_free(bf16);
    kd_test_free(back);
    kd_test_free(twin);
    kd_backend_destroy(be);
}

Test(ops_elementwise, large_packed_tensors_are_shared_by_the_threads)
{
    kd_backend *be = kd_test_backend(KD_F32, 2);
    const int64_t n = 100003;
    const kd_tensor a = kd_test_random(KD_F32, 1, n, 1), b = kd_test_zeros(KD_F32, 1, n);
    be->ops->copy(be, kd_tensor_1d(b.data, KD_F32, n), kd_tensor_1d(a.data, KD_F32, n));
    cr_expect_eq(kd_test_nmse(b, a), 0.0);
    be->ops->add(be, kd_tensor_1d(b.data, KD_F32, n), kd_tensor_1d(a.data, KD_F32, n));
    cr_expect_float_eq(kd_test_get(b, 0, n - 1), 2.0 * kd_test_get(a, 0, n - 1), 1e-6);
    be->ops->zero(be, kd_tensor_1d(b.data, KD_F32, n));
    cr_expect_eq(kd_test_project(b, b), 0.0);
    kd_test_free(a);
    kd_test_free(b);
    kd_backend_destroy(be);
}

Test(ops_elementwise, add_widens_and_zero_keeps_to_the_view)
{
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    const kd_tensor dst = kd_test_padded(KD_F32, 3, 17, 1, 1),
                    src = kd_test_padded(KD_BF16, 3, 17, 5, 2);
    const double sum = kd_test_get(dst, 2, 16) + kd_test_get(src, 2, 16);
    be->ops->add(be, dst, src);
    cr_expect_float_eq(kd_test_get(dst, 2, 16), sum, 1e-6);
    const double kept = kd_test_get(dst, 1, 3);
    be->ops->zero(be, kd_tensor_slice_columns(dst, 4, 13));
    cr_expect_eq(kd_test_get(dst, 1, 4), 0.0);
    cr_expect_eq(kd_test_get(dst, 1, 3), kept);
    kd_test_free(dst);
    kd_test_free(src);
    kd_backend_destroy(be);
}

Test(ops_elementwise, uploads_come_back)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const int32_t ids[6] = {5, 4, 3, 2, 1, 0};
    int32_t back[6] = {0};
    const kd_tensor stored = kd_test_zeros(KD_I32, 2, 4);
    kd_tensor t = kd_tensor_2d(stored.data, KD_I32, 2, 3);
    t.row_stride = 4;
    be->ops->upload(be, t, ids);
    cr_expect_eq(kd_test_ints(stored)[4], 2);
    cr_expect_eq(kd_test_ints(stored)[3], 0);
    be->ops->download(be, back, t);
    cr_expect_eq(memcmp(ids, back, sizeof ids), 0);
    kd_test_free(stored);
    kd_backend_destroy(be);
}

static void expect_bias(kd_dtype compute, int n_threads, double limit)
{
    kd_backend *be = kd_test_backend(compute, n_threads);
    const kd_tensor y = kd_test_padded(compute, 170, 213, 1, 1),
                    b = kd_test_random(KD_F32, 1, 213, 2);
    const kd_tensor db = kd_test_zeros(KD_F32, 1, 213), db_ref = kd_test_zeros(KD_F64, 1, 213);
    const double sum = kd_test_get(y, 169, 212) + kd_test_get(b, 0, 212);
    be->ops->bias(be, y, kd_tensor_1d(b.data, KD_F32, 213));
    cr_expect_float_eq(kd_test_get(y, 169, 212), sum, compute == KD_F32 ? 1e-6 : 2e-2);
    be->ops->bias_backward(be, kd_tensor_1d(db.data, KD_F32, 213), y, true);
    for (int64_t i = 0; i < 170 * 213; i++) {
        kd_test_set(db_ref, 0, i % 213,
                    kd_test_get(db_ref, 0, i % 213) + kd_test_get(y, i / 213, i % 213));
    }
    cr_expect_lt(kd_test_nmse(db, db_ref), limit);
    kd_test_free(y);
    kd_test_free(b);
    kd_test_free(db);
    kd_test_free(db_ref);
    kd_backend_destroy(be);
}

Test(ops_elementwise, bias_is_added_and_its_gradient_summed)
{
    expect_bias(KD_F32, 1, 1e-11);
    expect_bias(KD_BF16, 2, 1e-11);
}

Test(ops_elementwise, embedding_gathers_and_its_gradient_scatters)
{
    enum { V = 150, N = 17, C = 5 };

    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        kd_backend *be = kd_test_backend(KD_BF16, n_threads);
        int32_t ids[N];
        const kd_tensor table = kd_test_random(KD_BF16, V, C, 1), y = kd_test_zeros(KD_F32, N, C);
        const kd_tensor dtable = kd_test_zeros(KD_F32, V, C);
        for (int i = 0; i < N; i++) {
            ids[i] = (i * 37) % 15 * 10;
        }
        const kd_tensor which = kd_test_i32(ids, N);
        be->ops->embed(be, y, table, which);
        be->ops->embed_backward(be, dtable, y, which, true);
        int seen[V] = {0};
        for (int i = 0; i < N; i++) {
            cr_expect_eq(kd_test_get(y, i, 4), kd_test_get(table, ids[i], 4));
            seen[ids[i]]++;
        }
        for (int v = 0; v < V; v++) {
            cr_expect_float_eq(kd_test_get(dtable, v, 4), seen[v] * kd_test_get(table, v, 4), 1e-5);
        }
        kd_test_free(table);
        kd_test_free(y);
        kd_test_free(dtable);
        kd_test_free(which);
        kd_backend_destroy(be);
    }
}

/* (T, D) cosines and sines of arbitrary angles. */
static kd_tensor angles(int64_t t, int64_t d)
{
    const kd_tensor table = kd_test_zeros(KD_F32, t, d);
    for (int64_t i = 0; i < t * d / 2; i++) {
        kd_test_set(table, i / (d / 2), i % (d / 2), cos((double)i * 0.7));
        kd_test_set(table, i / (d / 2), d / 2 + i % (d / 2), sin((double)i * 0.7));
    }
    return table;
}

static void expect_rotation(kd_dtype compute, int64_t t, int64_t heads, int64_t d, double limit)
{
    kd_backend *be = kd_test_backend(compute, 1);
    const kd_tensor x = kd_test_padded(compute, 2 * t, heads * d, 3, 1), table = angles(t, d);
    const kd_tensor before = kd_test_zeros(KD_F64, 2 * t, heads * d);
    for (int64_t i = 0; i < 2 * t * heads * d; i++) {
        kd_test_set(before, i / (heads * d), i % (heads * d),
                    kd_test_get(x, i / (heads * d), i % (heads * d)));
    }
    const kd_rotation by = {.table = table, .positions = kd_tensor_none(), .n_heads = heads};
    be->ops->rotate(be, x, &by, false);
    const int64_t row = 2 * t - 1, at = (heads - 1) * d, half = d / 2;
    const double c = kd_test_get(table, t - 1, half - 1), s = kd_test_get(table, t - 1, d - 1);
    const double low = kd_test_get(before, row, at + half - 1);
    const double high = kd_test_get(before, row, at + d - 1);
    cr_expect_float_eq(kd_test_get(x, row, at + half - 1), low * c - high * s, sqrt(limit) * 10);
    cr_expect_float_eq(kd_test_get(x, row, at + d - 1), high * c + low * s, sqrt(limit) * 10);
    be->ops->rotate(be, x, &by, true);
    cr_expect_lt(kd_test_nmse(x, before), limit);
    kd_test_free(x);
    kd_test_free(table);
    kd_test_free(before);
    kd_backend_destroy(be);
}

Test(ops_elementwise, rotation_takes_positions_where_there_are_some)
{
    const int32_t positions[6] = {4, 0, 2, 1, 4, 3};
    kd_backend *be = kd_test_backend(KD_F32, 2);
    const kd_tensor x = kd_test_padded(KD_F32, 6, 8, 3, 1), table = angles(5, 4);
    const kd_tensor alone = kd_test_zeros(KD_F32, 5, 8);
    for (int row = 0; row < 6; row++) { /* by itself the row stands where its position says */
        for (int64_t c = 0; c < 8; c++) {
            kd_test_set(alone, positions[row], c, kd_test_get(x, row, c));
        }
        kd_rotation by = {.table = table, .positions = kd_tensor_none(), .n_heads = 2};
        be->ops->rotate(be, alone, &by, false);
        const kd_tensor one = kd_tensor_slice_rows(x, row, 1);
        const kd_tensor position = kd_test_i32(&positions[row], 1);
        by.positions = position;
        be->ops->rotate(be, one, &by, false);
        cr_expect_eq(kd_test_nmse(one, kd_tensor_slice_rows(alone, positions[row], 1)), 0.0);
        kd_test_free(position);
    }
    kd_test_free(x);
    kd_test_free(table);
    kd_test_free(alone);
    kd_backend_destroy(be);
}

Test(ops_elementwise, rotation_follows_the_formula_and_turns_back)
{
    expect_rotation(KD_F32, 1, 1, 2, 1e-12);
    expect_rotation(KD_F32, 17, 3, 34, 1e-12);
    expect_rotation(KD_BF16, 3, 4, 64, 2e-5);
}

typedef struct glu {
    kd_backend *be;
    kd_tensor gu, h, dgu, dh;
} glu;

static double swiglu(void *user)
{
    glu *f = user;
    f->be->ops->swiglu(f->be, f->h, f->gu);
    return kd_test_project(f->h, f->dh);
}

static glu make_glu(kd_dtype compute, int64_t rows, int64_t width)
{
    return (glu){kd_test_backend(compute, 2), kd_test_padded(compute, rows, 2 * width, 3, 1),
                 kd_test_zeros(compute, rows, width),
                 kd_test_padded(compute, rows, 2 * width, 1, 3),
                 kd_test_random(compute, rows, width, 2)};
}

static void free_glu(glu *f)
{
    kd_test_free(f->gu);
    kd_test_free(f->h);
    kd_test_free(f->dgu);
    kd_test_free(f->dh);
    kd_backend_destroy(f->be);
}

Test(ops_elementwise, swiglu_follows_the_formula_and_its_gradient_central_differences)
{
    static const int64_t widths[] = {1, 3, 17, 40};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        glu f = make_glu(KD_F32, 3, widths[i]);
        (void)swiglu(&f);
        const double g = kd_test_get(f.gu, 2, 0), u = kd_test_get(f.gu, 2, widths[i]);
        cr_expect_float_eq(kd_test_get(f.h, 2, 0), g / (1.0 + exp(-g)) * u, 1e-6);
        f.be->ops->swiglu_backward(f.be, f.dgu, f.dh, f.gu);
        cr_expect_lt(kd_test_slope_error(swiglu, &f, f.gu, f.dgu, 1e-2), 1e-3);
        free_glu(&f);
    }
}

Test(ops_elementwise, bf16_swiglu_is_near_f32)
{
    glu exact = make_glu(KD_F32, 130, 170), rounded = make_glu(KD_BF16, 130, 170);
    (void)swiglu(&exact);
    (void)swiglu(&rounded);
    exact.be->ops->swiglu_backward(exact.be, exact.dgu, exact.dh, exact.gu);
    rounded.be->ops->swiglu_backward(rounded.be, rounded.dgu, rounded.dh, rounded.gu);
    cr_expect_lt(kd_test_nmse(rounded.h, exact.h), 5e-5);
    cr_expect_lt(kd_test_nmse(rounded.dgu, exact.dgu), 5e-5);
    free_glu(&exact);
    free_glu(&rounded);
}
