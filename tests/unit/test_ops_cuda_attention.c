/*
 * Attention by cuDNN's engines beside the plain kernels. Where the library is not there these tests fail: then
 * nothing is shown of its engines.
 */
#include <criterion/criterion.h>
#include <math.h>

#include "tensor/cuda/attention_cudnn.h"
#include "tensor/cuda/cudnn.h"
#include "tensor/cuda/kernels.h"
#include "tests/support/attention_case.h"
#include "tests/support/ops_check.h"

enum { PIECE = 8 }; /* elements of 16 bytes */

/* Errors of what is rounded to bf16 on both sides, and of what is not; and of gradients, to which the rounding of
 * probabilities, of scores' gradients and of heads' parts comes: in a segment of few rows dq and dk are little else. */
static const double ROUNDED = 1e-5, EXACT = 1e-9, OF_GRADIENTS = 5e-5;

/* Each test asks: a pass of the plain kernels shows nothing of these. */
static void expect_library(void)
{
    cr_assert_not_null(kd_cudnn_library(), "found no cuDNN, whose attention is tried here");
}

static attention_case
make(const char *kernels, kd_dtype compute, attention_shape s, int64_t padding)
{
    kd_test_use_kernels(kernels);
    attention_case f = attention_case_make_padded(compute, 1, s, padding);
    kd_test_use_kernels(NULL);
    return f;
}

static int64_t runs(const attention_case *f)
{
    return kd_cuda_runs(f->be, KD_CUDA_KERNEL_ATTENTION_CUDNN);
}

/* Pieces of 7, 1, 3 of padding, and what is left; those of another sequence begin with another. */
static void cut_into_segments(attention_case *f)
{
    static const int lengths[] = {7, 1, 3};

    const int64_t n = f->a.n_batch * f->a.n_tokens;
    f->a.segments = kd_tensor_1d(kd_test_zeros(KD_I32, 1, n).data, KD_I32, n);
    for (int64_t row = 0; row < n; row++) {
        int64_t at = row % f->a.n_tokens, i = row / f->a.n_tokens;
        int32_t number = 0;
        for (; at >= lengths[i % 3] && number < 9; i++, number++) {
            at -= lengths[i % 3];
        }
        kd_test_ints(f->a.segments)[row] = i % 3 == 2 ? -1 : number;
    }
}

static void spoil_padding(const attention_case *f)
{
    for (int64_t row = 0; row < f->a.n_batch * f->a.n_tokens; row++) {
        const bool spoils = kd_test_ints(f->a.segments)[row] < 0;
        for (int64_t c = 0; spoils && c < kd_tensor_columns(f->qkv); c++) {
            kd_test_set(f->qkv, row, c, (double)NAN);
        }
        for (int64_t c = 0; spoils && c < kd_tensor_columns(f->dout); c++) {
            kd_test_set(f->dout, row, c, (double)NAN);
        }
    }
}

/* That of padding says nothing. */
static void forget_lse_of_padding(const attention_case *f)
{
    for (int64_t i = 0; i < kd_tensor_elements(f->lse); i++) {
        const int64_t t = f->a.n_tokens, h = f->a.n_heads, row = i / t / h * t + i % t;
        if (kd_test_ints(f->a.segments)[row] < 0) {
            kd_test_set(f->lse, i / t, i % t, 0.0);
        }
    }
}

static void run_both(attention_case *f, bool is_packed, int64_t window)
{
    f->a.window = window;
    if (is_packed) {
        cut_into_segments(f);
        spoil_padding(f);
    }
    attention_case_forward(f);
    attention_case_backward(f);
    if (is_packed) {
        forget_lse_of_padding(f);
    }
}

static void expect_gradient(const attention_case *fast,
                            const attention_case *plain,
                            const char *name,
                            int64_t first,
                            int64_t width)
{
    cr_expect_lt(kd_test_nmse(kd_tensor_slice_columns(fast->dqkv, first, width),
                              kd_tensor_slice_columns(plain->dqkv, first, width)),
                 OF_GRADIENTS, "%s, T %d", name, (int)fast->a.n_tokens);
}

/* kept: bytes that a pass backward may keep; 0: as many as always. */
static void expect_as_plain(attention_shape s, bool is_packed, int64_t window, int64_t kept)
{
    attention_case fast = make("fast", KD_BF16, s, PIECE), plain = make("plain", KD_BF16, s, PIECE);
    if (kept > 0) {
        kd_cuda_attention_keep_at_most(fast.be, kept);
    }
    run_both(&fast, is_packed, window);
    run_both(&plain, is_packed, window);
    cr_expect_eq(runs(&fast), 2, "T %d", (int)s.t);
    cr_expect_eq(runs(&plain), 0);
    cr_expect_lt(kd_test_nmse(fast.out, plain.out), ROUNDED, "T %d", (int)s.t);
    cr_expect_lt(kd_test_nmse(fast.lse, plain.lse), EXACT, "T %d", (int)s.t);
    expect_gradient(&fast, &plain, "dq", 0, s.h * s.d);
    expect_gradient(&fast, &plain, "dk", s.h * s.d, s.g * s.d);
    expect_gradient(&fast, &plain, "dv", (s.h + s.g) * s.d, s.g * s.d);
    attention_case_release(&fast);
    attention_case_release(&plain);
}

static const attention_shape shapes[] = {
    {1, 2, 1, 1, 8}, {2, 17, 4, 2, 16}, {3, 70, 6, 3, 64}, {1, 130, 2, 1, 128}, {2, 33, 3, 3, 24},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

Test(ops_cudnn_attention, agrees_with_the_plain_kernels)
{
    expect_library();
    for (int i = 0; i < N_SHAPES; i++) {
        expect_as_plain(shapes[i], false, 0, 0);
    }
}

Test(ops_cudnn_attention, packed_rows_see_their_segment_and_padding_is_not_read)
{
    expect_library();
    for (int i = 0; i < N_SHAPES; i++) {
        expect_as_plain(shapes[i], true, 0, 0);
    }
}

Test(ops_cudnn_attention, a_window_is_a_bound_like_a_segment)
{
    expect_library();
    for (int i = 1; i < 3; i++) {
        expect_as_plain(shapes[i], false, 16, 0);
        expect_as_plain(shapes[i], true, 4, 0);
    }
}

/* What a head's gradients of scores take of a sequence of up to 64 rows. */
enum { OF_HEAD = 64 * 64 * 2 };

Test(ops_cudnn_attention, a_pass_backward_in_parts_is_the_whole)
{
    static const attention_shape s = {6, 33, 4, 2, 16};
    const int64_t kept[] = {6 * 4 * OF_HEAD, 4 * 4 * OF_HEAD, 4 * OF_HEAD, 2 * OF_HEAD};

    expect_library();
    for (int i = 0; i < 4; i++) {
        const bool is_packed = i % 2 == 1;
        expect_as_plain(s, is_packed, is_packed ? 5 : 0, kept[i]);
    }
}

Test(ops_cudnn_attention, a_pass_backward_that_would_keep_too_much_is_left_to_the_plain_kernels)
{
    expect_library();
    attention_case f = make("fast", KD_BF16, (attention_shape){1, 33, 4, 2, 16}, PIECE);
    kd_cuda_attention_keep_at_most(f.be, 2 * OF_HEAD - 1);
    attention_case_forward(&f);
    attention_case_backward(&f);
    cr_expect_eq(runs(&f), 1);
    attention_case_release(&f);
}

Test(ops_cudnn_attention, the_same_input_gives_the_same_bits)
{
    expect_library();
    attention_case f = make("fast", KD_BF16, shapes[2], PIECE);
    const int64_t n = kd_tensor_rows(f.dqkv), width = kd_tensor_columns(f.dqkv);
    const kd_tensor first = kd_test_zeros(KD_F64, n, width);
    for (int i = 0; i < 3; i++) {
        attention_case_forward(&f);
        attention_case_backward(&f);
        for (int64_t at = 0; at < n * width; at++) {
            const double x = kd_test_get(f.dqkv, at / width, at % width);
            if (i == 0) {
                kd_test_set(first, at / width, at % width, x);
            }
            cr_assert_eq(kd_test_get(first, at / width, at % width), x);
        }
    }
    kd_test_free(first);
    attention_case_release(&f);
}

Test(ops_cudnn_attention, the_log_sum_exp_may_be_left_out)
{
    expect_library();
    attention_case f = make("fast", KD_BF16, shapes[1], PIECE);
    attention_case_forward(&f);
    const kd_tensor out = kd_test_zeros(KD_F32, 34, 64);
    for (int64_t i = 0; i < 34 * 64; i++) {
        kd_test_set(out, i / 64, i % 64, kd_test_get(f.out, i / 64, i % 64));
    }
    f.a.lse = kd_tensor_none();
    attention_case_forward(&f);
    cr_expect_eq(runs(&f), 2);
    cr_expect_eq(kd_test_nmse(f.out, out), 0.0);
    kd_test_free(out);
    attention_case_release(&f);
}

static void expect_plain(kd_dtype compute, attention_shape s, int64_t padding)
{
    attention_case f = make("fast", compute, s, padding);
    attention_case_forward(&f);
    cr_expect_eq(runs(&f), 0, "T %d, D %d, padding %d", (int)s.t, (int)s.d, (int)padding);
    attention_case_release(&f);
}

Test(ops_cudnn_attention, what_engines_do_not_take_is_left_to_the_plain_kernels)
{
    expect_library();
    expect_plain(KD_F32, (attention_shape){1, 17, 2, 1, 16}, PIECE);
    expect_plain(KD_BF16, (attention_shape){1, 17, 2, 1, 12}, PIECE);     /* columns            */
    expect_plain(KD_BF16, (attention_shape){1, 17, 2, 1, 136}, PIECE);    /* too many           */
    expect_plain(KD_BF16, (attention_shape){1, 17, 2, 1, 16}, PIECE / 2); /* rows apart by this */
    expect_plain(KD_BF16, (attention_shape){4, 1, 2, 1, 16}, PIECE);      /* a row alone        */
}
