/* The vocabulary loss at the edge: masked, huge and equal logits, and what a caller may leave out. */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"
#include "tests/support/vocab_case.h"

/* A student whose logits are those of its one-hot hidden states' columns of the lm_head. */
static void make_logits(vocab_case *f, int64_t rows, int64_t n, float temperature, vocab_shape s)
{
    s.rows = s.width = rows;
    s.student = s.teacher = s.vocab = n;
    s.temperature = temperature;
    vocab_case_make(f, KD_F32, 1, s);
    for (int64_t i = 0; i < rows * rows; i++) {
        kd_test_set(f->loss.hidden, i / rows, i % rows, i / rows == i % rows ? 1.0 : 0.0);
    }
}

static void set_student(vocab_case *f, int64_t row, int64_t v, double logit)
{
    kd_test_set(f->loss.lm_head, v, row, logit);
}

Test(ops_vocab_loss, equal_logits_have_no_divergence)
{
    vocab_case f;
    make_logits(&f, 3, 17, 4.0f, (vocab_shape){.n_teachers = 2, .kd_scale = 1.0f});
    for (int64_t i = 0; i < 3 * 17; i++) {
        kd_test_set(f.teachers[0].logits, i / 17, i % 17,
                    kd_test_get(f.loss.lm_head, i % 17, i / 17));
        kd_test_set(f.teachers[1].logits, i / 17, i % 17,
                    kd_test_get(f.loss.lm_head, i % 17, i / 17));
    }
    vocab_case_run(&f);
    cr_expect_float_eq(vocab_case_sum(&f, KD_VOCAB_SUM_KD), 0.0, 1e-6);
    cr_expect_lt(kd_test_project(f.loss.d_hidden, f.loss.d_hidden), 1e-12);
    vocab_case_release(&f);
}

Test(ops_vocab_loss, masked_columns_of_teachers_have_no_probability)
{
    const double masks[] = {-INFINITY, -3.4028234e38};
    for (int i = 0; i < 4; i++) {
        vocab_case f;
        const int n_teachers = 1 + i / 2;
        vocab_case_make(&f, KD_F32, 1,
                        (vocab_shape){6, 4, 17, 17, 17, n_teachers, 0, 2.0f, 0.7f, 0.3f});
        for (int64_t v = 0; v < 17; v++) {
            if (v % 3 != 1) {
                kd_test_set(f.teachers[0].logits, 2, v, masks[i % 2]);
            }
            if (n_teachers == 2 && v % 3 == 0) { /* these in both */
                kd_test_set(f.teachers[1].logits, 2, v, masks[i % 2]);
            }
        }
        kd_test_set(f.teachers[0].logits, 0, 16, masks[i % 2]);
        vocab_case_expect(&f, "masked", i);
        vocab_case_release(&f);
    }
}

Test(ops_vocab_loss, a_row_without_a_column_left_is_a_value_and_no_fault_of_the_back_end)
{
    for (int n_teachers = 1; n_teachers <= 2; n_teachers++) {
        vocab_case f;
        vocab_case_make(&f, KD_F32, 1,
                        (vocab_shape){9, 4, 7, 9, 7, n_teachers, 0, 2.0f, 0.7f, 0.3f});
        for (int64_t v = 0; v < 7; v++) { /* two padding columns keep theirs */
            kd_test_set(f.teachers[n_teachers - 1].logits, 5, v, -INFINITY);
        }
        vocab_case_run(&f);
        cr_expect(isnan(vocab_case_sum(&f, KD_VOCAB_SUM_KD)));
        cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_EMPTY), 1.0);
        cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_ROWS), 7.0, "the labelled ones");
        vocab_case_release(&f);
    }
}

Test(ops_vocab_loss, huge_logits_do_not_overflow)
{
    vocab_case f;
    make_logits(&f, 1, 17, 1.0f,
                (vocab_shape){.n_teachers = 1, .kd_scale = 0.7f, .hard_scale = 0.3f});
    for (int64_t v = 0; v < 17; v++) {
        set_student(&f, 0, v, 1e4 * (double)(v + 1));
        kd_test_set(f.teachers[0].logits, 0, v, -1e4 * (double)(v + 1));
    }
    f.labels[0] = 16;
    vocab_case_run(&f);
    cr_expect_float_eq(vocab_case_sum(&f, KD_VOCAB_SUM_HARD), 0.0, 1e-3);
    cr_expect_float_eq(vocab_case_sum(&f, KD_VOCAB_SUM_KD), 160000.0, 1.0);
    vocab_case_release(&f);
}

Test(ops_vocab_loss, the_first_of_the_largest_logits_is_the_prediction)
{
    static const double logits[3][4] = {{1, 3, 3, 0}, {1, 3, 3, 0}, {9, 1, 1, 1}};
    vocab_case f;
    make_logits(&f, 3, 4, 1.0f, (vocab_shape){.hard_scale = 1.0f});
    for (int i = 0; i < 12; i++) {
        set_student(&f, i / 4, i % 4, logits[i / 4][i % 4]);
    }
    f.labels[0] = 1;
    f.labels[1] = 2;
    f.labels[2] = 0;
    vocab_case_run(&f);
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_CORRECT), 2.0);
    vocab_case_release(&f);
}

#ifdef KD_TEST_CUDA /* a host that knows the labels ends the program instead */

Test(ops_vocab_loss, a_label_that_is_no_column_spoils_the_sum)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){5, 3, 17, 17, 17, 1, 0, 2.0f, 0.7f, 0.3f});
    f.labels[1] = 17;
    vocab_case_run(&f);
    cr_expect(isnan(vocab_case_sum(&f, KD_VOCAB_SUM_HARD)));
    cr_expect_eq(vocab_case_sum(&f, KD_VOCAB_SUM_ROWS), 4.0, "all but row 3");
    vocab_case_release(&f);
}

#endif

Test(ops_vocab_loss, each_gradient_may_be_left_out)
{
    const vocab_shape s = {5, 3, 17, 17, 17, 1, 1, 4.0f, 0.7f, 0.3f};
    vocab_case full;
    vocab_case_make(&full, KD_F32, 1, s);
    vocab_case_run(&full);
    for (int left_out = 1; left_out < 4; left_out++) {
        vocab_case f;
        vocab_case_make(&f, KD_F32, 1, s);
        const kd_tensor d_hidden = f.loss.d_hidden, d_lm_head = f.loss.d_lm_head;
        f.loss.d_hidden = left_out & 1 ? kd_tensor_none() : d_hidden;
        f.loss.d_lm_head = left_out & 2 ? kd_tensor_none() : d_lm_head;
        vocab_case_run(&f);
        cr_expect_eq(kd_test_nmse(f.loss.sums, full.loss.sums), 0.0);
        if (left_out == 1) {
            cr_expect_eq(kd_test_nmse(d_lm_head, full.loss.d_lm_head), 0.0);
        }
        if (left_out == 2) {
            cr_expect_eq(kd_test_nmse(d_hidden, full.loss.d_hidden), 0.0);
        }
        f.loss.d_hidden = d_hidden;
        f.loss.d_lm_head = d_lm_head;
        vocab_case_release(&f);
    }
    vocab_case_release(&full);
}

static size_t peak_scratch(bool with_gradient)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){64, 8, 2000, 2000, 2000, 1, 1, 2.0f, 0.7f, 0.3f});
    const kd_tensor d_hidden = f.loss.d_hidden, d_lm_head = f.loss.d_lm_head;
    if (!with_gradient) {
        f.loss.d_hidden = f.loss.d_lm_head = kd_tensor_none();
    }
    vocab_case_run(&f);
    const size_t peak_bytes = f.be->ops->memory_usage(f.be).scratch_bytes;
    f.loss.d_hidden = d_hidden;
    f.loss.d_lm_head = d_lm_head;
    vocab_case_release(&f);
    return peak_bytes;
}

Test(ops_vocab_loss, in_f32_the_gradient_takes_the_place_of_the_logits)
{
    const size_t a_chunk = (size_t)64 * 2000 * sizeof(float);
    cr_expect_lt(peak_scratch(true), peak_scratch(false) + a_chunk / 8);
}

Test(ops_vocab_loss, logits_may_come_in_bf16)
{
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){9, 3, 17, 19, 17, 1, 0, 2.0f, 0.7f, 0.3f});
    kd_test_free(f.teachers[0].logits);
    f.teachers[0].logits = kd_test_padded(KD_BF16, 9, 19, 1, 7);
    vocab_case_expect(&f, "bf16 logits", 0);
    vocab_case_release(&f);
}
