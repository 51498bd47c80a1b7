/* Whatever a caller hands over: NULL and absurd numbers are told, and the student stays usable. */
#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>

#include "tests/support/small_student.h"
#include "tests/support/temporary.h"

TestSuite(kd_arguments, .init = temporary_enter, .fini = temporary_leave);

static void expect_null_named(kd_status st, const char *name)
{
    char words[80];
    (void)snprintf(words, sizeof words, "%s: found NULL, expected a pointer to one", name);
    cr_expect_eq(st, KD_ERR_ARG, "%s", name);
    cr_expect_str_eq(kd_error_text(), words);
}

Test(kd_arguments, an_argument_that_is_null_is_named)
{
    kd_student *s = small_student(SMALL(1)), *none = NULL;
    int32_t tokens[N] = {0};
    float *logits = malloc(N * V * sizeof *logits);
    char value[8];
    kd_losses losses;
    kd_scores scores;
    kd_set_quiet(true);
    expect_null_named(kd_student_create(NULL, &none), "yaml");
    expect_null_named(kd_student_create("", NULL), "student_out");
    expect_null_named(kd_student_set(NULL, "objective.hard.weight", "1"), "student");
    expect_null_named(kd_student_set(s, NULL, "1"), "path");
    expect_null_named(kd_student_set(s, "objective.hard.weight", NULL), "value");
    expect_null_named(kd_student_get(NULL, "seed", value, sizeof value), "student");
    expect_null_named(kd_student_get(s, NULL, value, sizeof value), "path");
    expect_null_named(kd_student_get(s, "seed", NULL, 8), "out");
    expect_null_named(kd_student_attach_teacher(NULL, "teacher"), "student");
    expect_null_named(kd_student_step(NULL, tokens, tokens, B, &losses), "student");
    expect_null_named(kd_student_step(s, NULL, tokens, B, &losses), "tokens");
    expect_null_named(kd_student_step(s, tokens, tokens, B, NULL), "losses_out");
    expect_null_named(kd_student_losses(NULL, tokens, NULL, B, &losses), "student");
    expect_null_named(kd_student_losses(s, NULL, NULL, B, &losses), "tokens");
    expect_null_named(kd_student_losses(s, tokens, NULL, B, NULL), "losses_out");
    expect_null_named(kd_student_step_on_logits(NULL, tokens, NULL, logits, B, &losses), "student");
    expect_null_named(kd_student_step_on_logits(s, NULL, NULL, logits, B, &losses), "tokens");
    expect_null_named(kd_student_step_on_logits(s, tokens, NULL, NULL, B, &losses),
                      "target_logits");
    expect_null_named(kd_student_step_on_logits(s, tokens, NULL, logits, B, NULL), "losses_out");
    expect_null_named(kd_student_logits(NULL, tokens, B, logits), "student");
    expect_null_named(kd_student_logits(s, NULL, B, logits), "tokens");
    expect_null_named(kd_student_logits(s, tokens, B, NULL), "logits_out");
    expect_null_named(kd_student_teacher_logits(NULL, tokens, B, logits), "student");
    expect_null_named(kd_student_teacher_logits(s, NULL, B, logits), "tokens");
    expect_null_named(kd_student_teacher_logits(s, tokens, B, NULL), "logits_out");
    expect_null_named(kd_student_evaluate(NULL, tokens, tokens, B, &scores), "student");
    expect_null_named(kd_student_evaluate(s, NULL, tokens, B, &scores), "tokens");
    expect_null_named(kd_student_evaluate(s, tokens, NULL, B, &scores), "labels");
    expect_null_named(kd_student_evaluate(s, tokens, tokens, B, NULL), "scores_out");
    expect_null_named(kd_student_save(NULL, "m"), "student");
    expect_null_named(kd_student_save(s, NULL), "folder");
    expect_null_named(kd_student_checkpoint(NULL, "m"), "student");
    expect_null_named(kd_student_checkpoint(s, NULL), "folder");
    expect_null_named(kd_student_resume(NULL, "m"), "student");
    expect_null_named(kd_student_resume(s, NULL), "folder");
    kd_student_set_distillation(NULL, true);
    cr_expect_not(kd_student_distils(NULL));
    cr_expect_eq(kd_student_steps(NULL), 0);
    cr_expect_null(none);
    (void)small_train(s, 1);
    free(logits);
    kd_student_destroy(s);
}

Test(kd_arguments, absurd_numbers_of_sequences_are_refused)
{
    static const int64_t counts[] = {0, -1, B + 1, INT64_MIN, INT64_MAX};
    kd_student *s = small_student(SMALL(1));
    int32_t tokens[N] = {0};
    float logit = -7.0f;
    kd_losses losses = {.total = -7.0};
    kd_scores scores = {.loss = -7.0};
    kd_set_quiet(true);
    cr_assert_eq(kd_student_attach_teacher(s, small_teacher()), KD_OK);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        const int64_t n = counts[i];
        cr_expect_eq(kd_student_step(s, tokens, tokens, n, &losses), KD_ERR_ARG);
        cr_expect_eq(kd_student_losses(s, tokens, NULL, n, &losses), KD_ERR_ARG);
        cr_expect_eq(kd_student_step_on_logits(s, tokens, NULL, &logit, n, &losses), KD_ERR_ARG);
        cr_expect_eq(kd_student_logits(s, tokens, n, &logit), KD_ERR_ARG);
        cr_expect_eq(kd_student_teacher_logits(s, tokens, n, &logit), KD_ERR_ARG);
    }
    cr_expect_eq(kd_student_evaluate(s, tokens, tokens, 0, &scores), KD_ERR_INVALID);
    cr_expect_eq(kd_student_evaluate(s, tokens, tokens, INT64_MIN, &scores), KD_ERR_INVALID);
    cr_expect(logit == -7.0f && losses.total == -7.0 && scores.loss == -7.0);
    (void)small_train(s, 1);
    kd_student_destroy(s);
}
