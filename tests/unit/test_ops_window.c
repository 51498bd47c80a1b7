/* Attention whose rows see a window of those before them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "tests/support/attention_case.h"
#include "tests/support/ops_check.h"

typedef struct window_shape {
    attention_shape s;
    int64_t window;
} window_shape;

/* ---- the formula, in doubles ---- */

/* One query row: head h of sequence b. Rows count from the sequence's first. */
typedef struct query {
    const kd_attention *a;
    int64_t b, h, i;
} query;

static int64_t first_key(const query *q)
{
    const int64_t before = q->i + 1 - q->a->window;
    return q->a->window == 0 || before < 0 ? 0 : before;
}

static double value(const query *q, kd_tensor t, int64_t row, int64_t head, int64_t c)
{
    return kd_test_get(t, q->b * q->a->n_tokens + row, head * q->a->head_dim + c);
}

static void add(const query *q, kd_tensor t, int64_t row, int64_t head, int64_t c, double x)
{
    kd_test_set(t, q->b * q->a->n_tokens + row, head * q->a->head_dim + c,
                value(q, t, row, head, c) + x);
}

/* Row i of x with row j of y. */
static double product(const query *q, kd_tensor x, kd_tensor y, int64_t j)
{
    const int64_t g = q->h / (q->a->n_heads / q->a->n_kv_heads);
    double sum = 0.0;
    for (int64_t c = 0; c < q->a->head_dim; c++) {
        sum += value(q, x, q->i, q->h, c) * value(q, y, j, g, c);
    }
    return sum;
}

/* In f64, as those of a case; gradients are of sum(out * dout). */
typedef struct formula {
    kd_tensor out, lse, dqkv;
} formula;

static void naive_row(const query *q, const attention_case *f, const formula *to, double *p)
{
    const kd_attention *a = q->a;
    const int64_t g = q->h / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    const kd_tensor dq = kd_tensor_slice_columns(to->dqkv, 0, a->n_heads * d);
    const kd_tensor dk = kd_tensor_slice_columns(to->dqkv, a->n_heads * d, a->n_kv_heads * d);
    const kd_tensor dv =
        kd_tensor_slice_columns(to->dqkv, (a->n_heads + a->n_kv_heads) * d, a->n_kv_heads * d);
    const double scale = 1.0 / sqrt((double)d);
    double sum = 0.0, delta = 0.0;
    for (int64_t j = first_key(q); j <= q->i; j++) {
        p[j] = exp(product(q, a->q, a->k, j) * scale);
        sum += p[j];
    }
    for (int64_t j = first_key(q); j <= q->i; j++) {
        p[j] /= sum;
        delta += p[j] * product(q, f->dout, a->v, j);
    }
    kd_test_set(to->lse, q->b * a->n_heads + q->h, q->i, log(sum));
    for (int64_t j = first_key(q); j <= q->i; j++) {
        const double ds = p[j] * (product(q, f->dout, a->v, j) - delta) * scale;
        for (int64_t c = 0; c < d; c++) {
            add(q, to->out, q->i, q->h, c, p[j] * value(q, a->v, j, g, c));
            add(q, dv, j, g, c, p[j] * value(q, f->dout, q->i, q->h, c));
            add(q, dq, q->i, q->h, c, ds * value(q, a->k, j, g, c));
            add(q, dk, j, g, c, ds * value(q, a->q, q->i, q->h, c));
        }
    }
}

static formula naive(const attention_case *f)
{
    const kd_attention *a = &f->a;
    const int64_t n = a->n_batch * a->n_tokens;
    const formula to = {kd_test_zeros(KD_F64, n, kd_tensor_columns(f->out)),
                        kd_test_zeros(KD_F64, a->n_batch * a->n_heads, a->n_tokens),
                        kd_test_zeros(KD_F64, n, kd_tensor_columns(f->dqkv))};
    double *p = calloc((size_t)a->n_tokens, sizeof *p);
    for (int64_t at = 0; at < n * a->n_heads; at++) {
        const query q = {a, at / a->n_tokens / a->n_heads, at / a->n_tokens % a->n_heads,
                         at % a->n_tokens};
        naive_row(&q, f, &to, p);
    }
    free(p);
    return to;
}

static attention_case run(kd_dtype compute, int n_threads, window_shape w)
{
    attention_case f = attention_case_make(compute, n_threads, w.s);
    f.a.window = w.window;
    attention_case_forward(&f);
    attention_case_backward(&f);
    return f;
}

static void expect_formula(kd_dtype compute, window_shape w)
{
    const double limit = compute == KD_F32 ? 1e-11 : 2e-4;
    attention_case f = run(compute, 2, w);
    const formula to = naive(&f);
    cr_expect_lt(kd_test_nmse(f.out, to.out), limit, "out, T %d window %d", (int)w.s.t,
                 (int)w.window);
    cr_expect_lt(kd_test_nmse(f.lse, to.lse), limit, "lse, T %d window %d", (int)w.s.t,
                 (int)w.window);
    cr_expect_lt(kd_test_nmse(f.dqkv, to.dqkv), limit, "gradients, T %d window %d", (int)w.s.t,
                 (int)w.window);
    kd_test_free(to.out);
    kd_test_free(to.lse);
    kd_test_free(to.dqkv);
    attention_case_release(&f);
}

/* Windows that end with blocks of rows, just before and behind them, and within the first. */
static const window_shape shapes[] = {
    {{1, 1, 1, 1, 2}, 1},     {{2, 3, 2, 1, 6}, 2},     {{3, 17, 6, 3, 10}, 5},
    {{1, 130, 1, 1, 4}, 64},  {{1, 130, 1, 1, 4}, 65},  {{1, 130, 1, 1, 4}, 66},
    {{1, 200, 1, 1, 16}, 33}, {{2, 130, 2, 1, 8}, 100},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

Test(ops_window, follows_the_formula)
{
    for (int i = 0; i < N_SHAPES; i++) {
        expect_formula(KD_F32, shapes[i]);
    }
}

Test(ops_window, bf16_is_near_the_formula)
{
    for (int i = 3; i < N_SHAPES; i++) {
        expect_formula(KD_BF16, shapes[i]);
    }
}

#ifndef KD_TEST_CUDA
/* Of the CPU's blocks: beyond 1024 keys in sight, blocks read some that none of their queries sees. */
Test(ops_window, follows_the_formula_where_blocks_read_keys_in_vain)
{
    expect_formula(KD_F32, (window_shape){{1, 1300, 1, 1, 4}, 1090});
    expect_formula(KD_F32, (window_shape){{1, 1300, 1, 1, 4}, 70});
}
#endif

static double projected(void *user)
{
    attention_case *f = user;
    attention_case_forward(f);
    return kd_test_project(f->out, f->dout);
}

Test(ops_window, gradients_match_central_differences)
{
    static const window_shape few[] = {{{2, 3, 2, 1, 4}, 2}, {{1, 9, 2, 1, 2}, 3}};
    for (int i = 0; i < 2; i++) {
        attention_case f = run(KD_F32, 1, few[i]);
        cr_expect_lt(kd_test_slope_error(projected, &f, f.qkv, f.dqkv, 1e-2), 2e-3, "T %lld",
                     (long long)few[i].s.t);
        attention_case_release(&f);
    }
}

/* ---- the ends of the range ---- */

static void expect_same_bits(kd_dtype compute, window_shape w)
{
    const window_shape none = {w.s, 0};
    attention_case f = run(compute, 1, w), whole = run(compute, 1, none);
    cr_expect_eq(kd_test_nmse(f.out, whole.out), 0.0, "window %lld", (long long)w.window);
    cr_expect_eq(kd_test_nmse(f.lse, whole.lse), 0.0, "window %lld", (long long)w.window);
    cr_expect_eq(kd_test_nmse(f.dqkv, whole.dqkv), 0.0, "window %lld", (long long)w.window);
    attention_case_release(&f);
    attention_case_release(&whole);
}

Test(ops_window, one_as_long_as_the_sequence_is_none_bit_for_bit)
{
    static const int64_t windows[] = {70, (int64_t)INT32_MAX + 1};
    for (int i = 0; i < 2; i++) {
        expect_same_bits(KD_F32, (window_shape){{1, 70, 2, 1, 6}, windows[i]});
        expect_same_bits(KD_BF16, (window_shape){{1, 70, 2, 1, 16}, windows[i]});
    }
}

Test(ops_window, one_row_shorter_than_the_sequence_makes_a_difference)
{
    attention_case f = run(KD_F32, 1, (window_shape){{1, 70, 1, 1, 4}, 69}),
                   whole = run(KD_F32, 1, (window_shape){{1, 70, 1, 1, 4}, 0});
    const kd_tensor last = kd_tensor_slice_rows(f.out, 69, 1);
    cr_expect_gt(kd_test_nmse(last, kd_tensor_slice_rows(whole.out, 69, 1)), 1e-9, "the last row");
    cr_expect_eq(
        kd_test_nmse(kd_tensor_slice_rows(f.out, 0, 69), kd_tensor_slice_rows(whole.out, 0, 69)),
        0.0, "and no other");
    attention_case_release(&f);
    attention_case_release(&whole);
}

Test(ops_window, of_one_row_gives_its_value)
{
    const attention_shape s = {1, 70, 1, 1, 8};
    for (int bf16 = 0; bf16 < 2; bf16++) {
        attention_case f = run(bf16 ? KD_BF16 : KD_F32, 1, (window_shape){s, 1});
        const int64_t wide = s.h * s.d;
        for (int64_t i = 0; i < s.t * wide; i++) {
            const int64_t row = i / wide, c = i % wide;
            cr_assert_eq(kd_test_get(f.out, row, c), kd_test_get(f.a.v, row, c));
            cr_expect_float_eq(kd_test_get(f.dqkv, row, 2 * wide + c), kd_test_get(f.dout, row, c),
                               1e-6);
            cr_expect_float_eq(kd_test_get(f.dqkv, row, c), 0.0, bf16 ? 2e-2 : 1e-6);
        }
        attention_case_release(&f);
    }
}

/* ---- with segments ---- */

static void copy_rows(kd_tensor to, kd_tensor from, int64_t first)
{
    for (int64_t i = 0; i < kd_tensor_elements(to); i++) {
        const int64_t row = i / kd_tensor_columns(to), column = i % kd_tensor_columns(to);
        kd_test_set(to, row, column, kd_test_get(from, first + row, column));
    }
}

Test(ops_window, a_segment_has_its_own)
{
    enum { T = 150, FIRST = 7, LONG = 110 };

    const window_shape whole = {{1, T, 1, 1, 16}, 40}, part = {{1, LONG, 1, 1, 16}, 40};
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const kd_dtype compute = bf16 ? KD_BF16 : KD_F32;
        int32_t segments[T];
        for (int i = 0; i < T; i++) {
            segments[i] = i < FIRST ? 3 : i < FIRST + LONG ? 1 : i < T - 9 ? 2 : -1;
        }
        attention_case f = attention_case_make(compute, 1, whole.s),
                       alone = attention_case_make(compute, 1, part.s);
        f.a.segments = kd_test_i32(segments, T);
        f.a.window = alone.a.window = whole.window;
        copy_rows(alone.qkv, f.qkv, FIRST);
        copy_rows(alone.dout, f.dout, FIRST);
        attention_case_forward(&f);
        attention_case_backward(&f);
        attention_case_forward(&alone);
        attention_case_backward(&alone);
        const double limit = kd_test_gap_of_order(compute);
        cr_expect_leq(kd_test_nmse(kd_tensor_slice_rows(f.out, FIRST, LONG), alone.out),
                      limit * limit);
        cr_expect_leq(kd_test_nmse(kd_tensor_slice_rows(f.dqkv, FIRST, LONG), alone.dqkv),
                      limit * limit);
        attention_case_release(&f);
        attention_case_release(&alone);
    }
}
