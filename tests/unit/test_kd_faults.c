/* What a call refuses, and that the next one works: kd.h and libkd.so, nothing else. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/small_student.h"
#include "tests/support/temporary.h"

#define JOB(training) DATA MODEL "training: {steps: 100, dtype: f32, " training "}\n"

TestSuite(kd_faults, .init = temporary_enter, .fini = temporary_leave);

static void expect_text(const char *part)
{
    cr_expect_not_null(strstr(kd_error_text(), part), "'%s' not in '%s'", part, kd_error_text());
}

Test(kd_faults, a_step_whose_targets_have_an_empty_row_is_refused_and_the_next_one_is_made)
{
    kd_student *hurt = small_student(JOB("batch_size: 4")),
               *whole = small_student(JOB("batch_size: 4"));
    float *logits = calloc(N * V, sizeof *logits), *empty = calloc(N * V, sizeof *empty);
    int32_t tokens[N], labels[N];
    kd_losses wanted, found;
    small_text(tokens, labels, 0);
    for (int i = 0; i < V; i++) {
        empty[3 * V + i] = -INFINITY;
    }
    cr_expect_eq(kd_student_step_on_logits(hurt, tokens, labels, empty, B, &found), KD_ERR_INVALID);
    expect_text("found 1 of 32 rows where a teacher has no logit above -inf");
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(kd_student_step_on_logits(whole, tokens, labels, logits, B, &wanted), KD_OK);
        cr_assert_eq(kd_student_step_on_logits(hurt, tokens, labels, logits, B, &found), KD_OK);
        cr_expect_eq(found.total, wanted.total);
        cr_expect_eq(found.gradient_norm, wanted.gradient_norm);
    }
    cr_expect_eq(kd_student_save(hurt, temporary_path("hurt")), KD_OK);
    free(empty);
    free(logits);
    kd_student_destroy(whole);
    kd_student_destroy(hurt);
}

Test(kd_faults, a_bad_token_or_label_is_named_by_its_place_in_the_call)
{
    kd_student *student = small_student(JOB("batch_size: 4, micro_batch_size: 2"));
    int32_t tokens[N], labels[N];
    kd_losses losses;
    small_text(tokens, labels, 0);
    cr_assert_eq(kd_student_step(student, tokens, labels, B, &losses), KD_OK);
    labels[3 * T + 5] = V;
    cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_ERR_INVALID);
    expect_text("sequence 3, label 5: found 256");
    tokens[2 * T + 1] = -1;
    cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_ERR_INVALID);
    expect_text("sequence 2, token 1: found -1");
    kd_student_destroy(student);
}

Test(kd_faults, a_batch_need_not_be_whole_micro_batches)
{
    kd_student *whole = small_student(JOB("batch_size: 4")),
               *cut = small_student(JOB("batch_size: 4, "
                                        "micro_batch_size: 3"));
    int32_t tokens[N], labels[N];
    kd_losses wanted, found;
    small_text(tokens, labels, 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(kd_student_step(whole, tokens, labels, B, &wanted), KD_OK);
        cr_assert_eq(kd_student_step(cut, tokens, labels, B, &found), KD_OK, "%s", kd_error_text());
        cr_expect_eq(found.n_tokens, N);
        cr_expect_float_eq(found.values[0].raw, wanted.values[0].raw, 1e-5);
    }
    kd_student_destroy(cut);
    kd_student_destroy(whole);
}
