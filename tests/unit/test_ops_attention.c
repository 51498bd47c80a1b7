#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/attention_case.h"
#include "tests/support/ops_check.h"

static double score(const kd_attention *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const int64_t g = h / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    double sum = 0.0;
    for (int64_t c = 0; c < d; c++) {
        sum += kd_test_get(a->q, b * a->n_tokens + i, h * d + c) *
               kd_test_get(a->k, b * a->n_tokens + j, g * d + c);
    }
    return sum / sqrt((double)d);
}

enum { LONGEST = 1300 };

/* The formula, in doubles, one query row at a time. */
static void
naive_row(const kd_attention *a, kd_tensor out, kd_tensor lse, int64_t b, int64_t h, int64_t i)
{
    const int64_t g = h / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    double weights[LONGEST], sum = 0.0;
    cr_assert_lt(i, LONGEST);
    for (int64_t j = 0; j <= i; j++) {
        weights[j] = exp(score(a, b, h, i, j));
        sum += weights[j];
    }
    for (int64_t c = 0; c < d; c++) {
        double mean = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            mean += weights[j] / sum * kd_test_get(a->v, b * a->n_tokens + j, g * d + c);
        }
        kd_test_set(out, b * a->n_tokens + i, h * d + c, mean);
    }
    kd_test_set(lse, b * a->n_heads + h, i, log(sum));
}

static void expect_formula(kd_dtype compute, attention_shape s, double limit)
{
    attention_case f = attention_case_make(compute, 1, s);
    const kd_tensor out = kd_test_zeros(KD_F64, s.b * s.t, s.h * s.d);
    const kd_tensor lse = kd_test_zeros(KD_F64, s.b * s.h, s.t);
    for (int64_t i = 0; i < s.b * s.h * s.t; i++) {
        naive_row(&f.a, out, lse, i / s.t / s.h, i / s.t % s.h, i % s.t);
    }
    attention_case_forward(&f);
    cr_expect_lt(kd_test_nmse(f.out, out), limit, "T %lld", (long long)s.t);
    cr_expect_lt(kd_test_nmse(f.lse, lse), limit, "T %lld", (long long)s.t);
    kd_test_free(out);
    kd_test_free(lse);
    attention_case_release(&f);
}

Test(ops_attention, follows_the_formula_at_odd_shapes)
{
    expect_formula(KD_F32, (attention_shape){1, 1, 1, 1, 2}, 1e-12);
    expect_formula(KD_F32, (attention_shape){2, 3, 2, 1, 6}, 1e-12);
    expect_formula(KD_F32, (attention_shape){3, 17, 6, 3, 10}, 1e-12);
    expect_formula(KD_F32, (attention_shape){1, 130, 2, 1, 16}, 1e-12);
}

/* Beyond 1024 keys blocks read some that their queries do not see. */
Test(ops_attention, follows_the_formula_where_blocks_read_keys_in_vain)
{
    expect_formula(KD_F32, (attention_shape){1, LONGEST, 1, 1, 4}, 1e-12);
}

Test(ops_attention, bf16_is_near_the_formula)
{
    expect_formula(KD_BF16, (attention_shape){1, 1, 1, 1, 2}, 1e-4);
    expect_formula(KD_BF16, (attention_shape){2, 17, 4, 2, 16}, 1e-4);
    expect_formula(KD_BF16, (attention_shape){1, 130, 2, 1, 64}, 1e-4);
}

static double projected(void *user)
{
    attention_case *f = user;
    attention_case_forward(f);
    return kd_test_project(f->out, f->dout);
}

static void expect_gradients(attention_shape s)
{
    attention_case f = attention_case_make(KD_F32, 1, s);
    attention_case_forward(&f);
    attention_case_backward(&f);
    cr_expect_lt(kd_test_slope_error(projected, &f, f.qkv, f.dqkv, 1e-2), 2e-3, "T %lld",
                 (long long)s.t);
    attention_case_release(&f);
}

Test(ops_attention, gradients_match_central_differences)
{
    expect_gradients((attention_shape){1, 1, 1, 1, 2});
    expect_gradients((attention_shape){2, 3, 2, 1, 4});
    expect_gradients((attention_shape){1, 17, 4, 2, 6});
    expect_gradients((attention_shape){1, 66, 2, 1, 4});
}

/* Rows of a longer sequence that only rows of the shorter one answer to: as if it had ended there. */
Test(ops_attention, keys_read_in_vain_get_no_gradient)
{
    enum { SHORT = 1090 };

    attention_case whole = attention_case_make(KD_F32, 1, (attention_shape){1, LONGEST, 1, 1, 4});
    attention_case cut = attention_case_make(KD_F32, 1, (attention_shape){1, SHORT, 1, 1, 4});
    for (int64_t row = 0; row < LONGEST; row++) {
        for (int64_t i = 0; i < 4; i++) {
            kd_test_set(whole.dout, row, i, row < SHORT ? kd_test_get(cut.dout, row, i) : 0.0);
        }
        for (int64_t i = 0; i < 12 && row < SHORT; i++) {
            kd_test_set(cut.qkv, row, i, kd_test_get(whole.qkv, row, i));
        }
    }
    attention_case_forward(&whole);
    attention_case_backward(&whole);
    attention_case_forward(&cut);
    attention_case_backward(&cut);
    const kd_tensor same = kd_tensor_slice_rows(whole.dqkv, 0, SHORT);
    const kd_tensor behind = kd_tensor_slice_rows(whole.dqkv, SHORT, LONGEST - SHORT);
    cr_expect_lt(kd_test_nmse(same, cut.dqkv), 1e-12);
    for (int64_t row = 0; row < LONGEST - SHORT; row++) {
        for (int64_t i = 4; i < 12; i++) {
            cr_assert_eq(kd_test_get(behind, row, i), 0.0, "row %d", (int)row + SHORT);
        }
    }
    attention_case_release(&whole);
    attention_case_release(&cut);
}

Test(ops_attention, bf16_gradients_are_near_f32)
{
    const attention_shape s = {2, 130, 4, 2, 16};
    attention_case exact = attention_case_make(KD_F32, 1, s),
                   rounded = attention_case_make(KD_BF16, 1, s);
    attention_case_forward(&exact);
    attention_case_backward(&exact);
    attention_case_forward(&rounded);
    attention_case_backward(&rounded);
    cr_expect_lt(kd_test_nmse(rounded.dqkv, exact.dqkv), 5e-4);
    attention_case_release(&exact);
    attention_case_release(&rounded);
}

Test(ops_attention, two_threads_agree_with_one)
{
    const attention_shape s = {3, 70, 6, 3, 16};
    attention_case one = attention_case_make(KD_F32, 1, s), two = attention_case_make(KD_F32, 2, s);
    attention_case_forward(&one);
    attention_case_backward(&one);
    attention_case_forward(&two);
    attention_case_backward(&two);
    cr_expect_eq(kd_test_nmse(two.out, one.out), 0.0);
    cr_expect_eq(kd_test_nmse(two.dqkv, one.dqkv), 0.0);
    attention_case_release(&one);
    attention_case_release(&two);
}

/* ---- segments ---- */

/* Lengths of what lies in one sequence of 100 rows, negative for padding; elsewhere one segment. */
static const int64_t packed[] = {17, 66, -5, 3, 1, -8};

enum { PACKED = 100, N_PACKED = sizeof packed / sizeof *packed };

static void fill_segments(int32_t *segments)
{
    int64_t row = 0;
    for (int i = 0; i < N_PACKED; i++) {
        const int64_t n = packed[i] < 0 ? -packed[i] : packed[i];
        for (int64_t end = row + n; row < end; row++) {
            segments[row] = packed[i] < 0 ? -1 : i % 2 + 7; /* numbers may come again */
        }
    }
    for (; row < 2 * PACKED; row++) {
        segments[row] = 7; /* the next sequence, although it goes on with a number */
    }
}

static void copy_rows(kd_tensor to, int64_t to_row, kd_tensor from, int64_t from_row, int64_t n)
{
    for (int64_t i = 0; i < n * kd_tensor_columns(to); i++) {
        const int64_t row = i / kd_tensor_columns(to), column = i % kd_tensor_columns(to);
        kd_test_set(to, to_row + row, column, kd_test_get(from, from_row + row, column));
    }
}

/* Largest difference of rows. */
static double apart(kd_tensor x, int64_t x_row, kd_tensor y, int64_t y_row, int64_t n)
{
    double worst = 0.0;
    for (int64_t i = 0; i < n * kd_tensor_columns(x); i++) {
        const int64_t row = i / kd_tensor_columns(x), column = i % kd_tensor_columns(x);
        const double gap =
            fabs(kd_test_get(x, x_row + row, column) - kd_test_get(y, y_row + row, column));
        worst = gap > worst || isnan(gap) ? gap : worst;
    }
    return worst;
}

/* The rows by themselves, as a sequence of that length. */
static void expect_alone(const attention_case *whole, kd_dtype compute, int64_t first, int64_t n)
{
    const double limit = kd_test_gap_of_order(compute);
    attention_case alone = attention_case_make(compute, 1, (attention_shape){1, n, 4, 2, 6});
    copy_rows(alone.qkv, 0, whole->qkv, first, n);
    copy_rows(alone.dout, 0, whole->dout, first, n);
    attention_case_forward(&alone);
    attention_case_backward(&alone);
    cr_expect_leq(apart(whole->out, first, alone.out, 0, n), limit, "output from row %d",
                  (int)first);
    cr_expect_leq(apart(whole->dqkv, first, alone.dqkv, 0, n), limit, "gradients from row %d",
                  (int)first);
    attention_case_release(&alone);
}

static void expect_padding(const attention_case *f, int64_t first, int64_t n)
{
    for (int64_t row = first; row < first + n; row++) {
        for (int64_t c = 0; c < kd_tensor_columns(f->out); c++) {
            cr_expect_eq(kd_test_get(f->out, row, c), 0.0, "row %d", (int)row);
        }
        for (int64_t c = 0; c < kd_tensor_columns(f->dqkv); c++) {
            cr_expect_eq(kd_test_get(f->dqkv, row, c), 0.0, "row %d", (int)row);
        }
    }
}

static void spoil(const attention_case *f, int64_t first, int64_t n)
{
    for (int64_t i = 0; i < n * kd_tensor_columns(f->qkv); i++) {
        kd_test_set(f->qkv, first + i / kd_tensor_columns(f->qkv), i % kd_tensor_columns(f->qkv),
                    (double)NAN);
    }
    for (int64_t i = 0; i < n * kd_tensor_columns(f->dout); i++) {
        kd_test_set(f->dout, first + i / kd_tensor_columns(f->dout), i % kd_tensor_columns(f->dout),
                    (double)NAN);
    }
}

static void expect_segments(kd_dtype compute, int n_threads)
{
    int32_t segments[2 * PACKED];
    attention_case f =
        attention_case_make(compute, n_threads, (attention_shape){2, PACKED, 4, 2, 6});
    fill_segments(segments);
    f.a.segments = kd_test_i32(segments, INT64_C(2) * PACKED);
    for (int64_t row = 0; row < PACKED; row++) {
        if (segments[row] < 0) {
            spoil(&f, row, 1); /* nobody may read it */
        }
    }
    attention_case_forward(&f);
    attention_case_backward(&f);
    int64_t first = 0;
    for (int i = 0; i < N_PACKED; i++) {
        const int64_t n = packed[i] < 0 ? -packed[i] : packed[i];
        if (packed[i] < 0) {
            expect_padding(&f, first, n);
        } else {
            expect_alone(&f, compute, first, n);
        }
        first += n;
    }
    expect_alone(&f, compute, PACKED, PACKED);
    attention_case_release(&f);
}

Test(ops_attention, packed_segments_are_as_separate_sequences)
{
    expect_segments(KD_F32, 1);
    expect_segments(KD_F32, 3);
    expect_segments(KD_BF16, 2);
}

Test(ops_attention, a_micro_batch_of_padding_gives_zeros)
{
    int32_t segments[6] = {-1, -1, -1, -1, -1, -1};
    attention_case f = attention_case_make(KD_F32, 2, (attention_shape){2, 3, 4, 2, 6});
    f.a.segments = kd_test_i32(segments, 6);
    spoil(&f, 0, 6);
    attention_case_forward(&f);
    attention_case_backward(&f);
    expect_padding(&f, 0, 6);
    attention_case_release(&f);
}
