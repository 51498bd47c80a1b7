/* Sums and gradients of the vocabulary loss against their formulas, and which rows take part. */
#include <criterion/criterion.h>

#include "tests/support/ops_check.h"
#include "tests/support/vocab_case.h"

static const vocab_shape shapes[] = {
    {1, 1, 3, 3, 3, 1, 0, 4.0f, 0.7f, 0.3f},     {5, 3, 17, 17, 17, 1, 0, 1.0f, 0.7f, 0.3f},
    {5, 17, 40, 33, 33, 1, 1, 1.0f, 0.7f, 0.3f}, {6, 4, 33, 40, 33, 1, 0, 2.0f, 1.0f, 0.0f},
    {6, 4, 40, 44, 37, 1, 1, 4.0f, 0.5f, 0.5f},  {3, 3, 17, 17, 17, 0, 0, 4.0f, 0.0f, 1.0f},
    {5, 3, 17, 17, 17, 2, 0, 1.0f, 0.7f, 0.3f},  {6, 4, 17, 21, 16, 2, 1, 3.0f, 0.7f, 0.3f},
    {6, 4, 17, 21, 16, 3, 2, 2.0f, 0.7f, 0.0f},  {35, 3, 9, 9, 9, 3, 3, 2.0f, 0.7f, 0.3f},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

Test(ops_vocab_loss, sums_and_gradients_follow_the_formulas)
{
    for (int i = 0; i < N_SHAPES; i++) {
        vocab_case f;
        vocab_case_make(&f, KD_F32, 1 + i % 2, shapes[i]);
        vocab_case_expect(&f, "vocab_shape", i);
        vocab_case_release(&f);
    }
}

Test(ops_vocab_loss, a_teacher_of_weight_zero_changes_nothing)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){5, 3, 17, 17, 17, 3, 1, 2.0f, 0.7f, 0.3f});
    f.teachers[1].weight = 0.0;
    vocab_case_expect(&f, "one of three is off", 0);
    f.teachers[0].weight = f.teachers[2].weight = 0.0;
    vocab_case_expect(&f, "all are off", 0);
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_KD), 0.0);
    vocab_case_release(&f);
}

Test(ops_vocab_loss, without_labels_every_row_counts_for_kd_and_hard_is_not_computed)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){6, 3, 17, 19, 16, 1, 0, 2.0f, 0.7f, 0.3f});
    f.loss.labels = kd_tensor_none();
    vocab_case_expect(&f, "unlabelled", 0);
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_ROWS), 6.0);
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_HARD), 0.0);
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_CORRECT), 0.0);
    vocab_case_release(&f);
}

Test(ops_vocab_loss, rows_that_are_not_listed_take_no_part)
{
    const int32_t rows[] = {1, 2, 3, 7, 8};
    for (int labelled = 0; labelled < 2; labelled++) {
        vocab_case f;
        vocab_case_make(&f, KD_F32, 1, (vocab_shape){9, 3, 17, 17, 17, 2, 1, 2.0f, 0.7f, 0.3f});
        f.loss.rows = kd_test_i32(rows, 5);
        f.loss.labels = labelled ? f.loss.labels : kd_tensor_none();
        vocab_case_expect(&f, "listed", labelled);
        cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_ROWS), labelled ? 3.0 : 5.0,
                     "rows 3 and 7 are ignored");
        for (int64_t c = 0; c < 3; c++) {
            cr_expect_eq(kd_test_get(f.loss.d_hidden, 0, c), 0.0);
            cr_expect_eq(kd_test_get(f.loss.d_hidden, 5, c), 0.0);
        }
        kd_test_free(f.loss.rows);
        vocab_case_release(&f);
    }
}

Test(ops_vocab_loss, a_micro_batch_without_rows_has_no_gradient)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){4, 3, 9, 9, 9, 1, 0, 1.0f, 0.7f, 0.3f});
    for (int i = 0; i < 4; i++) {
        f.labels[i] = KD_LABEL_IGNORED;
    }
    f.loss.accumulate = true;
    const double before = kd_test_get(f.loss.d_lm_head, 2, 1);
    vocab_case_run(&f);
    cr_expect_eq(kd_test_get(f.loss.d_lm_head, 2, 1), before);
    cr_expect_eq(kd_test_project(f.loss.d_hidden, f.loss.d_hidden), 0.0);
    f.loss.accumulate = false;
    vocab_case_run(&f);
    cr_expect_eq(kd_test_project(f.loss.d_lm_head, f.loss.d_lm_head), 0.0);
    for (int i = 0; i < KD_VOCAB_SUMS; i++) {
        cr_expect_eq(vocab_case_sum(&f, i), 0.0);
    }
    vocab_case_release(&f);
}

Test(ops_vocab_loss, the_lm_heads_gradient_is_written_or_added_to)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){5, 3, 7, 7, 7, 1, 1, 1.0f, 0.7f, 0.3f});
    vocab_case_run(&f);
    const kd_tensor once = kd_test_zeros(KD_F32, 7, 3);
    f.be->ops->copy(f.be, once, f.loss.d_lm_head);
    vocab_case_run(&f);
    cr_expect_eq(kd_test_nmse(f.loss.d_lm_head, once), 0.0);
    f.loss.accumulate = true;
    vocab_case_run(&f);
    for (int64_t i = 0; i < 21; i++) {
        cr_expect_float_eq(kd_test_get(f.loss.d_lm_head, i / 3, i % 3),
                           2.0 * kd_test_get(once, i / 3, i % 3), 1e-6);
    }
    kd_test_free(once);
    vocab_case_release(&f);
}
