#include <criterion/criterion.h>
#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tests/support/ops_check.h"

/* One call with its tensors: q, k and v are columns of one fused matrix, as in the decoder. */
typedef struct fixture {
    kd_backend *be;
    kd_tensor qkv, out, lse, dqkv, dout, factors;
    kd_attention a;
} fixture;

typedef struct shape {
    int64_t b, t, h, g, d;
} shape;

static fixture make(kd_dtype compute, int n_threads, shape s)
{
    const int64_t n = s.b * s.t, width = (s.h + 2 * s.g) * s.d;
    fixture f = {
        .be = kd_test_backend(compute, n_threads),
        .qkv = kd_test_padded(compute, n, width, 3, 1),
        .out = kd_test_zeros(compute, n, s.h * s.d),
        .lse = kd_test_zeros(KD_F32, s.b * s.h, s.t),
        .dqkv = kd_test_padded(compute, n, width, 5, 2),
        .dout = kd_test_random(compute, n, s.h * s.d, 3),
    };
    f.a = (kd_attention){
        .q = kd_tensor_slice_columns(f.qkv, 0, s.h * s.d),
        .k = kd_tensor_slice_columns(f.qkv, s.h * s.d, s.g * s.d),
        .v = kd_tensor_slice_columns(f.qkv, (s.h + s.g) * s.d, s.g * s.d),
        .out = f.out,
        .lse = f.lse,
        .n_batch = s.b,
        .n_tokens = s.t,
        .n_heads = s.h,
        .n_kv_heads = s.g,
        .head_dim = s.d,
    };
    return f;
}

static void release(fixture *f)
{
    kd_test_free(f->qkv);
    kd_test_free(f->out);
    kd_test_free(f->lse);
    kd_test_free(f->dqkv);
    kd_test_free(f->dout);
    kd_backend_destroy(f->be);
}

static void forward(fixture *f)
{
    f->be->ops->attention(f->be, &f->a);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

static void backward(fixture *f)
{
    const kd_attention *a = &f->a;
    const int64_t hd = a->n_heads * a->head_dim, gd = a->n_kv_heads * a->head_dim;
    f->be->ops->attention_backward(f->be, a, kd_tensor_slice_columns(f->dqkv, 0, hd),
                                   kd_tensor_slice_columns(f->dqkv, hd, gd),
                                   kd_tensor_slice_columns(f->dqkv, hd + gd, gd), f->dout);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

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

/* The formula, in doubles, one query row at a time. */
static void
naive_row(const kd_attention *a, kd_tensor out, kd_tensor lse, int64_t b, int64_t h, int64_t i)
{
    const int64_t g = h / (a->n_heads / a->n_kv_heads), d = a->head_dim;
    double sum = 0.0;
    for (int64_t j = 0; j <= i; j++) {
        sum += exp(score(a, b, h, i, j));
    }
    for (int64_t c = 0; c < d; c++) {
        double mean = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            mean +=
                exp(score(a, b, h, i, j)) / sum * kd_test_get(a->v, b * a->n_tokens + j, g * d + c);
        }
        kd_test_set(out, b * a->n_tokens + i, h * d + c, mean);
    }
    kd_test_set(lse, b * a->n_heads + h, i, log(sum));
}

static void expect_formula(kd_dtype compute, shape s, double limit)
{
    fixture f = make(compute, 1, s);
    const kd_tensor out = kd_test_zeros(KD_F64, s.b * s.t, s.h * s.d);
    const kd_tensor lse = kd_test_zeros(KD_F64, s.b * s.h, s.t);
    for (int64_t i = 0; i < s.b * s.h * s.t; i++) {
        naive_row(&f.a, out, lse, i / s.t / s.h, i / s.t % s.h, i % s.t);
    }
    forward(&f);
    cr_expect_lt(kd_test_nmse(f.out, out), limit, "T %lld", (long long)s.t);
    cr_expect_lt(kd_test_nmse(f.lse, lse), limit, "T %lld", (long long)s.t);
    kd_test_free(out);
    kd_test_free(lse);
    release(&f);
}

Test(ops_attention, follows_the_formula_at_odd_shapes)
{
    expect_formula(KD_F32, (shape){1, 1, 1, 1, 2}, 1e-12);
    expect_formula(KD_F32, (shape){2, 3, 2, 1, 6}, 1e-12);
    expect_formula(KD_F32, (shape){3, 17, 6, 3, 10}, 1e-12);
    expect_formula(KD_F32, (shape){1, 130, 2, 1, 16}, 1e-12);
}

/* Beyond 1024 keys blocks read some that their queries do not see. */
Test(ops_attention, follows_the_formula_where_blocks_read_keys_in_vain)
{
    expect_formula(KD_F32, (shape){1, 1300, 1, 1, 4}, 1e-12);
}

Test(ops_attention, bf16_is_near_the_formula)
{
    expect_formula(KD_BF16, (shape){1, 1, 1, 1, 2}, 1e-4);
    expect_formula(KD_BF16, (shape){2, 17, 4, 2, 16}, 1e-4);
    expect_formula(KD_BF16, (shape){1, 130, 2, 1, 64}, 1e-4);
}

static double projected(void *user)
{
    fixture *f = user;
    forward(f);
    return kd_test_project(f->out, f->dout);
}

static void expect_gradients(shape s)
{
    fixture f = make(KD_F32, 1, s);
    forward(&f);
    backward(&f);
    cr_expect_lt(kd_test_slope_error(projected, &f, f.qkv, f.dqkv, 1e-2), 2e-3, "T %lld",
                 (long long)s.t);
    release(&f);
}

Test(ops_attention, gradients_match_central_differences)
{
    expect_gradients((shape){1, 1, 1, 1, 2});
    expect_gradients((shape){2, 3, 2, 1, 4});
    expect_gradients((shape){1, 17, 4, 2, 6});
    expect_gradients((shape){1, 66, 2, 1, 4});
}

/* Rows of a longer sequence that only rows of the shorter one answer to: as if it had ended there. */
Test(ops_attention, keys_read_in_vain_get_no_gradient)
{
    enum { SHORT = 1090, LONG = 1300 };

    fixture whole = make(KD_F32, 1, (shape){1, LONG, 1, 1, 4});
    fixture cut = make(KD_F32, 1, (shape){1, SHORT, 1, 1, 4});
    for (int64_t row = 0; row < LONG; row++) {
        for (int64_t i = 0; i < 4; i++) {
            kd_test_set(whole.dout, row, i, row < SHORT ? kd_test_get(cut.dout, row, i) : 0.0);
        }
        for (int64_t i = 0; i < 12 && row < SHORT; i++) {
            kd_test_set(cut.qkv, row, i, kd_test_get(whole.qkv, row, i));
        }
    }
    forward(&whole);
    backward(&whole);
    forward(&cut);
    backward(&cut);
    const kd_tensor same = kd_tensor_slice_rows(whole.dqkv, 0, SHORT);
    const kd_tensor behind = kd_tensor_slice_rows(whole.dqkv, SHORT, LONG - SHORT);
    cr_expect_lt(kd_test_nmse(same, cut.dqkv), 1e-12);
    for (int64_t row = 0; row < LONG - SHORT; row++) {
        for (int64_t i = 4; i < 12; i++) {
            cr_assert_eq(kd_test_get(behind, row, i), 0.0, "row %d", (int)row + SHORT);
        }
    }
    release(&whole);
    release(&cut);
}

Test(ops_attention, a_long_sequence_makes_no_product_the_second_time)
{
    fixture f = make(KD_F32, 1, (shape){1, 12288, 1, 1, 4});
    forward(&f);
    backward(&f);
    const int64_t made = kd_cpu_products_made(f.be);
    cr_expect_gt(made, 0);
    forward(&f);
    backward(&f);
    cr_expect_eq(kd_cpu_products_made(f.be), made);
    release(&f);
}

Test(ops_attention, bf16_gradients_are_near_f32)
{
    const shape s = {2, 130, 4, 2, 16};
    fixture exact = make(KD_F32, 1, s), rounded = make(KD_BF16, 1, s);
    forward(&exact);
    backward(&exact);
    forward(&rounded);
    backward(&rounded);
    cr_expect_lt(kd_test_nmse(rounded.dqkv, exact.dqkv), 5e-4);
    release(&exact);
    release(&rounded);
}

Test(ops_attention, two_threads_agree_with_one)
{
    const shape s = {3, 70, 6, 3, 16};
    fixture one = make(KD_F32, 1, s), two = make(KD_F32, 2, s);
    forward(&one);
    backward(&one);
    forward(&two);
    backward(&two);
    cr_expect_eq(kd_test_nmse(two.out, one.out), 0.0);
    cr_expect_eq(kd_test_nmse(two.dqkv, one.dqkv), 0.0);
    release(&one);
    release(&two);
}

Test(ops_attention, scratch_that_no_machine_has_is_a_lasting_fault)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    float one = 7.0f;
    const int64_t t = (int64_t)1 << 45; /* never touched: the scratch memory is asked for first */
    const kd_tensor row = kd_tensor_2d(&one, KD_F32, t, 2);
    const kd_attention a = {.q = row,
                            .k = row,
                            .v = row,
                            .out = row,
                            .n_batch = 1,
                            .n_tokens = t,
                            .n_heads = 1,
                            .n_kv_heads = 1,
                            .head_dim = 2};
    be->ops->attention(be, &a);
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    be->ops->zero(be, kd_tensor_1d(&one, KD_F32, 1));
    cr_expect_eq(one, 7.0f, "operations after a fault do nothing");
    cr_expect_eq(kd_backend_wait(be), KD_ERR_NOMEM);
    kd_backend_destroy(be);
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
static void expect_alone(const fixture *whole, kd_dtype compute, int64_t first, int64_t n)
{
    fixture alone = make(compute, 1, (shape){1, n, 4, 2, 6});
    copy_rows(alone.qkv, 0, whole->qkv, first, n);
    copy_rows(alone.dout, 0, whole->dout, first, n);
    forward(&alone);
    backward(&alone);
    cr_expect_eq(apart(whole->out, first, alone.out, 0, n), 0.0, "output from row %d", (int)first);
    cr_expect_eq(apart(whole->dqkv, first, alone.dqkv, 0, n), 0.0, "gradients from row %d",
                 (int)first);
    release(&alone);
}

static void expect_padding(const fixture *f, int64_t first, int64_t n)
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

static void spoil(const fixture *f, int64_t first, int64_t n)
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
    fixture f = make(compute, n_threads, (shape){2, PACKED, 4, 2, 6});
    fill_segments(segments);
    f.a.segments = kd_tensor_1d(segments, KD_I32, INT64_C(2) * PACKED);
    for (int64_t row = 0; row < PACKED; row++) {
        if (segments[row] < 0) {
            spoil(&f, row, 1); /* nobody may read it */
        }
    }
    forward(&f);
    backward(&f);
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
    release(&f);
}

Test(ops_attention, packed_segments_give_the_bits_of_separate_sequences)
{
    expect_segments(KD_F32, 1);
    expect_segments(KD_F32, 3);
    expect_segments(KD_BF16, 2);
}

Test(ops_attention, a_micro_batch_of_padding_gives_zeros)
{
    int32_t segments[6] = {-1, -1, -1, -1, -1, -1};
    fixture f = make(KD_F32, 2, (shape){2, 3, 4, 2, 6});
    f.a.segments = kd_tensor_1d(segments, KD_I32, 6);
    spoil(&f, 0, 6);
    forward(&f);
    backward(&f);
    expect_padding(&f, 0, 6);
    release(&f);
}

enum { SEGMENTED = 96 };

/* Segments of 1 to 64 rows, others in each pass. */
static void cut_anew(int32_t segments[2 * SEGMENTED], uint32_t *state)
{
    int32_t number = 0, left = 0;
    for (int i = 0; i < 2 * SEGMENTED; i++) {
        if (left-- == 0) {
            *state = *state * 1664525u + 1013904223u;
            left = (int32_t)(*state >> 26);
            number++;
        }
        segments[i] = number;
    }
}

/* Two products forward, five backward, of spans of six padded lengths, whose last rows may be a copy. */
Test(ops_attention, segments_of_any_lengths_make_few_products)
{
    enum { PRODUCTS = 7, LENGTHS = SEGMENTED / 16, PLACES = 2 };

    int32_t segments[2 * SEGMENTED];
    uint32_t state = 7;
    fixture f = make(KD_F32, 1, (shape){2, SEGMENTED, 4, 2, 6});
    f.a.segments = kd_tensor_1d(segments, KD_I32, INT64_C(2) * SEGMENTED);
    for (int pass = 0; pass < 40; pass++) {
        cut_anew(segments, &state);
        forward(&f);
        backward(&f);
    }
    const int64_t made = kd_cpu_products_made(f.be);
    cr_expect_gt(made, 0);
    cr_expect_leq(made, PRODUCTS * LENGTHS * PLACES, "made %d", (int)made);
    release(&f);
}
