/* The vocabulary loss by the kernel that keeps rows in the memory of a cluster, held against the plain one. */
#include <criterion/criterion.h>
#include <math.h>

#include "tensor/cuda/kernels.h"
#include "tests/support/ops_check.h"
#include "tests/support/vocab_case.h"

/* A case and what is done to it before it runs, if anything. */
typedef struct trial {
    kd_dtype compute;
    vocab_shape shape;
    void (*change)(vocab_case *f);
} trial;

static int64_t n_runs(const vocab_case *f)
{
    return kd_cuda_runs(f->be, KD_CUDA_KERNEL_VOCABULARY_FAST);
}

static void run(vocab_case *f, const trial *t, const char *kernels)
{
    kd_test_use_kernels(kernels);
    vocab_case_make(f, t->compute, 1, t->shape);
    if (t->change != NULL) {
        t->change(f);
    }
    vocab_case_run(f);
    kd_test_use_kernels(NULL);
}

static void expect_near(kd_tensor fast, kd_tensor plain, double limit, const char *what, int which)
{
    if (fast.data != NULL) {
        cr_expect_lt(kd_test_nmse(fast, plain), limit, "%s of trial %d", what, which);
    }
}

/* Sums may be NaN, in both. Where gradients go through bf16, a rounding may go either way. */
static void expect_agreement(const vocab_case *fast, const vocab_case *plain, int which)
{
    const double limit = fast->be->compute == KD_F32 ? 1e-12 : 1e-6;
    for (int i = 0; i < KD_VOCAB_SUMS; i++) {
        const double found = vocab_case_sum(fast, i), wanted = vocab_case_sum(plain, i);
        cr_expect(
            isnan(wanted) ? isnan(found) : fabs(found - wanted) <= 1e-6 * (fabs(wanted) + 0.1),
            "trial %d: sum %d: found %.9g, by the plain kernel %.9g", which, i, found, wanted);
    }
    expect_near(fast->loss.d_hidden, plain->loss.d_hidden, limit, "d_hidden", which);
    expect_near(fast->loss.d_lm_head, plain->loss.d_lm_head, limit, "d_lm_head", which);
}

static void expect_same(const trial *trials, int n)
{
    for (int i = 0; i < n; i++) {
        vocab_case plain, fast;
        run(&plain, &trials[i], "plain");
        run(&fast, &trials[i], "fast");
        cr_expect_eq(n_runs(&plain), 0, "trial %d", i);
        cr_expect_eq(n_runs(&fast), 1, "trial %d", i);
        expect_agreement(&fast, &plain, i);
        vocab_case_release(&plain);
        vocab_case_release(&fast);
    }
}

#define N_OF(trials) ((int)(sizeof(trials) / sizeof *(trials)))

/* One block: a column, parts of four columns, of a tile of 2,048, several tiles, and more than the ring at once. */
Test(ops_cuda_vocab, a_block_agrees_with_the_plain_kernel)
{
    static const trial trials[] = {
        {KD_F32, {1, 1, 1, 1, 1, 1, 1, 2.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {9, 3, 17, 17, 17, 1, 1, 1.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {9, 3, 18, 18, 18, 1, 0, 1.0f, 0.7f, 0.3f}, NULL},
        {KD_BF16, {7, 3, 39, 35, 33, 1, 1, 3.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {7, 3, 33, 42, 33, 1, 0, 2.0f, 1.0f, 0.0f}, NULL},
        {KD_BF16, {5, 1, 2047, 2050, 2046, 1, 0, 2.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {13, 2, 5003, 4000, 3997, 1, 1, 0.5f, 0.7f, 0.3f}, NULL},
        {KD_F32, {4, 1, 14336, 14336, 14336, 1, 1, 1.0f, 0.7f, 0.3f}, NULL},
    };
    expect_same(trials, N_OF(trials));
}

/* 2, 4 and 8 blocks, the last of which has fewer columns; kd may end in any of them. */
Test(ops_cuda_vocab, clusters_agree_with_the_plain_kernel)
{
    static const trial trials[] = {
        {KD_BF16, {5, 1, 14337, 14346, 14337, 1, 0, 2.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {3, 1, 28675, 14346, 14341, 1, 0, 1.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {3, 1, 57347, 57347, 57346, 1, 1, 4.0f, 0.7f, 0.3f}, NULL},
    };
    expect_same(trials, N_OF(trials));
}

static void ignore_two_of_three(vocab_case *f)
{
    for (int64_t i = 0; i < kd_tensor_rows(f->loss.hidden); i++) {
        f->labels[i] = i % 3 == 2 ? 4 : KD_LABEL_IGNORED;
    }
}

static void ignore_all(vocab_case *f)
{
    for (int64_t i = 0; i < kd_tensor_rows(f->loss.hidden); i++) {
        f->labels[i] = KD_LABEL_IGNORED;
    }
}

static void drop_labels(vocab_case *f)
{
    f->loss.labels = kd_tensor_none();
}

static void label_no_column(vocab_case *f)
{
    f->labels[1] = (int32_t)kd_tensor_rows(f->loss.lm_head);
}

static void drop_gradients(vocab_case *f)
{
    kd_test_free(f->loss.d_hidden);
    kd_test_free(f->loss.d_lm_head);
    f->loss.d_hidden = f->loss.d_lm_head = kd_tensor_none();
}

Test(ops_cuda_vocab, rows_that_take_no_part_are_left_out)
{
    static const trial trials[] = {
        {KD_F32, {11, 3, 18, 18, 17, 1, 0, 2.0f, 0.7f, 0.3f}, ignore_two_of_three},
        {KD_BF16, {11, 3, 18, 18, 17, 1, 1, 2.0f, 0.7f, 0.3f}, ignore_two_of_three},
        {KD_F32, {5, 3, 18, 18, 17, 1, 0, 2.0f, 0.7f, 0.3f}, ignore_all},
        {KD_F32, {8, 3, 18, 18, 17, 1, 0, 2.0f, 0.7f, 0.3f}, drop_labels},
    };
    expect_same(trials, N_OF(trials));
}

Test(ops_cuda_vocab, an_evaluation_agrees)
{
    static const trial trials[] = {
        {KD_F32, {8, 3, 35, 34, 33, 1, 0, 2.0f, 0.7f, 0.3f}, drop_gradients},
        {KD_BF16, {8, 3, 35, 34, 33, 2, 1, 2.0f, 0.7f, 0.3f}, drop_gradients},
    };
    expect_same(trials, N_OF(trials));
}

static void mask_columns(vocab_case *f)
{
    static const double masks[] = {-INFINITY, -3.4028234e38};
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        if (v % 3 != 1) {
            kd_test_set(f->teachers[0].logits, 2, v, masks[v % 2]);
        }
    }
}

static void spread_logits(vocab_case *f)
{
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        kd_test_set(f->teachers[0].logits, 0, v, -1e4 * (double)v);
        kd_test_set(f->loss.lm_head, v, 0, 1e3 * (double)v);
    }
}

/* All of a row's logits are the same: the prediction is the first. Rows 0 and 1 have the labels 0 and 7. */
static void make_ties(vocab_case *f)
{
    for (int64_t v = 0; v < kd_tensor_rows(f->loss.lm_head); v++) {
        for (int64_t i = 0; i < kd_tensor_columns(f->loss.lm_head); i++) {
            kd_test_set(f->loss.lm_head, v, i, 0.5);
        }
    }
    drop_gradients(f); /* of the hidden states' nothing but rounding is left */
}

Test(ops_cuda_vocab, masked_huge_and_equal_logits_agree)
{
    static const trial trials[] = {
        {KD_F32, {6, 3, 18, 18, 18, 1, 0, 2.0f, 0.7f, 0.3f}, mask_columns},
        {KD_F32, {6, 3, 20, 18, 18, 2, 0, 2.0f, 0.7f, 0.3f}, mask_columns},
        {KD_F32, {3, 1, 18, 18, 18, 1, 0, 1.0f, 0.7f, 0.3f}, spread_logits},
        {KD_F32, {3, 3, 18, 18, 18, 1, 0, 1.0f, 0.7f, 0.3f}, make_ties},
    };
    expect_same(trials, N_OF(trials));
}

static void leave_no_column(vocab_case *f)
{
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        kd_test_set(f->teachers[f->loss.n_teachers - 1].logits, 1, v, -INFINITY);
    }
    drop_gradients(f); /* undefined */
}

static void spoil_student(vocab_case *f)
{
    kd_test_set(f->loss.hidden, 1, 0, NAN);
    drop_gradients(f);
}

/* Sums that are NaN, and which: by the plain kernel's word. */
Test(ops_cuda_vocab, what_has_no_value_spoils_the_same_sums)
{
    static const trial trials[] = {
        {KD_F32, {5, 3, 20, 18, 18, 1, 0, 2.0f, 0.7f, 0.3f}, leave_no_column},
        {KD_F32, {5, 3, 20, 18, 18, 2, 0, 2.0f, 0.7f, 0.3f}, leave_no_column},
        {KD_F32, {5, 3, 20, 18, 18, 1, 0, 2.0f, 0.7f, 0.3f}, spoil_student},
        {KD_F32, {5, 3, 18, 18, 18, 1, 0, 2.0f, 0.7f, 0.3f}, label_no_column},
    };
    expect_same(trials, N_OF(trials));
}

/* Rows at any address, no teacher, rows that no cluster can hold: the plain kernel stays. */
Test(ops_cuda_vocab, what_does_not_suit_clusters_runs_by_the_plain_kernel)
{
    static const trial trials[] = {
        {KD_F32, {5, 3, 17, 17, 17, 1, 0, 2.0f, 0.7f, 0.3f}, NULL},
        {KD_F32, {5, 3, 17, 17, 17, 0, 0, 2.0f, 0.0f, 1.0f}, NULL},
        {KD_F32, {1, 1, 229377, 18, 18, 1, 0, 2.0f, 0.7f, 0.3f}, NULL},
    };
    for (int i = 0; i < N_OF(trials); i++) {
        vocab_case f;
        run(&f, &trials[i], "fast");
        cr_expect_eq(n_runs(&f), 0, "trial %d", i);
        cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_ROWS), trials[i].shape.rows > 1 ? 4.0 : 1.0);
        vocab_case_release(&f);
    }
}

Test(ops_cuda_vocab, the_same_rows_give_the_same_bits)
{
    static const trial of = {KD_F32, {6, 1, 14337, 14337, 14337, 1, 1, 2.0f, 0.7f, 0.3f}, NULL};
    vocab_case first, second;
    run(&first, &of, "fast");
    run(&second, &of, "fast");
    cr_expect_eq(n_runs(&second), 1);
    cr_expect_eq(kd_test_nmse(second.loss.sums, first.loss.sums), 0.0);
    cr_expect_eq(kd_test_nmse(second.loss.d_hidden, first.loss.d_hidden), 0.0);
    cr_expect_eq(kd_test_nmse(second.loss.d_lm_head, first.loss.d_lm_head), 0.0);
    vocab_case_release(&first);
    vocab_case_release(&second);
}
