/* The public C API as a program of its own uses it: kd.h and libkd.so, nothing else. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/small_student.h"
#include "tests/support/temporary.h"

TestSuite(kd, .init = temporary_enter, .fini = temporary_leave);

static void set(kd_student *student, const char *path, const char *value)
{
    cr_assert_eq(kd_student_set(student, path, value), KD_OK, "%s", kd_error_text());
}

static void expect_value(const kd_student *student, const char *path, const char *expected)
{
    char value[256];
    cr_assert_eq(kd_student_get(student, path, value, sizeof value), KD_OK, "%s", kd_error_text());
    cr_expect_str_eq(value, expected, "%s: found %s", path, value);
}

static void expect_not_set(kd_student *student,
                           const char *path,
                           const char *value,
                           kd_status wanted,
                           const char *text)
{
    cr_expect_eq(kd_student_set(student, path, value), wanted, "%s", path);
    cr_expect_str_eq(kd_error_text(), text);
}

static const kd_student_loss *find(const kd_losses *losses, const char *name)
{
    for (int i = 0; i < losses->n_values; i++) {
        if (strcmp(losses->values[i].name, name) == 0) {
            return &losses->values[i];
        }
    }
    return NULL;
}

Test(kd, a_student_learns_from_a_teacher)
{
    kd_student *student = small_student(SMALL(2));
    cr_assert_eq(kd_student_attach_teacher(student, small_teacher()), KD_OK);
    set(student, "objective.kd.temperature", "2.0");
    const kd_losses first = small_train(student, 1), last = small_train(student, 60);
    cr_assert_not_null(find(&first, "kd"));
    cr_assert_not_null(find(&first, "hard"));
    cr_assert_not_null(find(&first, "balance"));
    cr_assert_not_null(find(&first, "z"));
    cr_expect_lt(find(&last, "kd")->raw, 0.3 * find(&first, "kd")->raw);
    cr_expect_lt(last.total, first.total);
    cr_expect_eq(last.n_tokens, N);
    cr_expect_eq(last.learning_rate, 1e-2);
    cr_expect_float_eq(find(&last, "kd")->weighted, 0.7 * find(&last, "kd")->raw, 1e-12);
    cr_expect_eq(kd_student_steps(student), 61);
    kd_student_destroy(student);
    kd_student_destroy(NULL);
}

Test(kd, distillation_turns_off_and_on)
{
    const char *teacher = small_teacher();
    kd_student *student = small_student(SMALL(2));
    kd_losses losses = small_train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    cr_assert_eq(kd_student_attach_teacher(student, teacher), KD_OK);
    losses = small_train(student, 1);
    cr_expect_not_null(find(&losses, "kd"));
    kd_student_set_distillation(student, false);
    losses = small_train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    kd_student_set_distillation(student, true);
    losses = small_train(student, 1);
    cr_expect_not_null(find(&losses, "kd"));
    set(student, "objective.kd.weight", "0.0");
    losses = small_train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    set(student, "objective.kd.weight", "1.0");
    cr_assert_eq(kd_student_attach_teacher(student, NULL), KD_OK);
    losses = small_train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    kd_student_destroy(student);
}

Test(kd, a_step_needs_no_labels)
{
    kd_student *student = small_student(SMALL(2));
    int32_t tokens[N], labels[N];
    kd_losses losses;
    small_text(tokens, labels, 0);
    cr_assert_eq(kd_student_attach_teacher(student, small_teacher()), KD_OK);
    cr_assert_eq(kd_student_step(student, tokens, NULL, B, &losses), KD_OK);
    cr_expect_not_null(find(&losses, "kd"));
    cr_expect_null(find(&losses, "hard"));
    cr_expect_eq(losses.n_tokens, N);
    kd_student_destroy(student);
}

/* hard has 0.3 beside a teacher; alone it is all there is to learn from. */
Test(kd, hard_targets_weigh_more_while_nothing_distils)
{
    kd_student *student = small_student(SMALL(2));
    cr_assert_eq(kd_student_attach_teacher(student, small_teacher()), KD_OK);
    kd_losses losses = small_train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 0.3);
    kd_student_set_distillation(student, false);
    losses = small_train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 1.0);
    kd_student_set_distillation(student, true);
    expect_value(student, "objective.hard.weight", "0.3");
    set(student, "objective.hard.weight", "0.25");
    kd_student_set_distillation(student, false);
    losses = small_train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 0.25, "as it was given");
    kd_student_destroy(student);
}

Test(kd, losses_and_logits_can_be_seen_without_a_step)
{
    kd_student *student = small_student(SMALL(2));
    const size_t n = N * (size_t)V;
    float *mine = malloc(n * sizeof *mine), *taught = malloc(n * sizeof *taught);
    int32_t tokens[N], labels[N];
    kd_losses asked, stepped;
    small_text(tokens, labels, 0);
    kd_set_quiet(true);
    cr_expect_eq(kd_student_teacher_logits(student, tokens, B, taught), KD_ERR_STATE);
    cr_expect_eq(kd_student_logits(student, tokens, 0, mine), KD_ERR_ARG);
    cr_expect_not(kd_student_distils(student));
    cr_assert_eq(kd_student_attach_teacher(student, small_teacher()), KD_OK);
    cr_expect(kd_student_distils(student));

    cr_assert_eq(kd_student_losses(student, tokens, labels, B, &asked), KD_OK);
    cr_assert_eq(kd_student_losses(student, tokens, labels, B, &asked), KD_OK);
    cr_expect_eq(kd_student_steps(student), 0);
    cr_assert_eq(kd_student_logits(student, tokens, B, mine), KD_OK);
    cr_assert_eq(kd_student_teacher_logits(student, tokens, B, taught), KD_OK);
    cr_expect_neq(mine[0], taught[0]);
    cr_assert_eq(kd_student_step(student, tokens, labels, B, &stepped), KD_OK);
    cr_expect_eq(asked.total, stepped.total);
    cr_expect_eq(asked.gradient_norm, stepped.gradient_norm);

    /* Its own logits, before the step, as targets: nothing is left to learn from them. */
    cr_assert_eq(kd_student_logits(student, tokens, B, mine), KD_OK);
    cr_assert_eq(kd_student_step_on_logits(student, tokens, labels, mine, B, &stepped), KD_OK);
    cr_expect_lt(fabs(find(&stepped, "kd")->raw), 1e-6);
    free(taught);
    free(mine);
    kd_student_destroy(student);
}

Test(kd, fields_are_set_and_got_by_path)
{
    kd_student *student = small_student(SMALL(2));
    expect_value(student, "objective.hard.weight", "1"); /* nobody teaches */
    set(student, "objective.hard.weight", "0.5");
    set(student, "objective.balance.weight", "0");
    set(student, "training.learning_rate", "0.002");
    expect_value(student, "objective.hard.weight", "0.5");
    expect_value(student, "training.learning_rate", "0.002");
    kd_losses losses = small_train(student, 1);
    cr_expect_float_eq(find(&losses, "hard")->weighted, 0.5 * find(&losses, "hard")->raw, 1e-12);
    cr_expect_null(find(&losses, "balance"));
    cr_expect_eq(losses.learning_rate, 0.002);

    set(student, "objective.balance.weight", ""); /* its default again */
    set(student, "objective.hard.weight",
        "{kind: step, points: [{step: 0, value: 1}, {step: 2, value: 2}]}");
    expect_value(student, "objective.balance.weight", "0.01");
    expect_value(student, "objective.hard.weight.points.1.value", "2");
    losses = small_train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 1.0);
    losses = small_train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 2.0);
    kd_student_destroy(student);
}

Test(kd, what_was_given_and_every_default_can_be_got)
{
    kd_student *student = small_student(SMALL(2));
    char few[4] = "";
    expect_value(student, "training.batch_size", "4");
    expect_value(student, "training.micro_batch_size", "4"); /* what follows from the batch */
    expect_value(student, "training.beta2", "0.95");
    expect_value(student, "training.dtype", "f32");
    expect_value(student, "student.model.num_kv_heads", "2");
    expect_value(student, "student.seed", "2");
    expect_value(student, "student.resources.ranks", "1");
    expect_value(student, "objective.kd.temperature", "4");
    set(student, "objective.kd.temperature", "2");
    expect_value(student, "objective.kd.temperature", "2");
    cr_expect_eq(kd_student_get(student, "training.decay", few, sizeof few), KD_ERR_ARG);
    cr_expect_str_eq(kd_error_text(), "training.decay: found room for 4 bytes, expected 9");
    cr_expect_str_eq(few, "");
    cr_expect_eq(kd_student_get(student, "training.dacey", few, sizeof few), KD_ERR_INVALID);
    expect_value(student, "teachers.0.checkpoint",
                 ""); /* nothing is set, and there is no default */
    kd_student_destroy(student);
}

Test(kd, a_wrong_path_or_value_is_refused_and_changes_nothing)
{
    kd_student *student = small_student(SMALL(2));
    set(student, "objective.hard.weight", "0.5");
    expect_not_set(student, "objective.hrad.weight", "1", KD_ERR_INVALID,
                   "objective.hrad: no such field; did you mean \"hard\"?");
    expect_not_set(student, "objective.hard.wieght", "1", KD_ERR_INVALID,
                   "objective.hard.wieght: no such field; did you mean \"weight\"?");
    expect_not_set(student, "objective.hard.weight", "-1", KD_ERR_INVALID,
                   "objective.hard.weight: found -1, expected a number of at least 0");
    expect_not_set(student, "objective.hard.weight", ".nan", KD_ERR_INVALID,
                   "objective.hard.weight: found nan, expected a number that is finite");
    expect_not_set(student, "objective.kd.temperature", "0", KD_ERR_INVALID,
                   "objective.kd.temperature: found 0, expected a number of at least 0.001");
    expect_not_set(student, "training.learning_rate", "0", KD_ERR_INVALID,
                   "training.learning_rate: found 0, expected a number above 0");
    cr_expect_eq(kd_student_set(student, "training.learning_rate", "fast"), KD_ERR_INVALID);
    cr_expect_eq(kd_student_set(student, "objective.hard.weight", "]"), KD_ERR_PROTO);
    expect_value(student, "objective.hard.weight", "0.5");
    expect_value(student, "training.learning_rate", "0.01");
    kd_student_destroy(student);
}

Test(kd, what_is_not_live_stays_as_it_was_created)
{
    static const char *const paths[] = {"training.batch_size",     "student.model.hidden_size",
                                        "objective.kd.divergence", "objective",
                                        "data.sequence_length",    "teachers.0.checkpoint"};
    kd_student *student = small_student(SMALL(2));
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        cr_expect_eq(kd_student_set(student, paths[i], "8"), KD_ERR_STATE, "%s", paths[i]);
        cr_expect_eq(strncmp(kd_error_text(), paths[i], strlen(paths[i])), 0, "%s",
                     kd_error_text());
    }
    expect_value(student, "training.batch_size", "4");
    (void)small_train(student, 1);
    kd_student_destroy(student);
}

Test(kd, a_teacher_may_stand_in_the_job_with_a_dtype_of_its_own)
{
    char job[512];
    const char *teacher = small_teacher();
    (void)snprintf(job, sizeof job, SMALL(2) "teachers: [{checkpoint: %s, dtype: f32}]\n", teacher);
    kd_student *named = small_student(job), *attached = small_student(SMALL(2));
    cr_assert(kd_student_distils(named));
    expect_value(named, "teachers.0.checkpoint", teacher);
    expect_value(named, "objective.hard.weight", "0.3");
    cr_assert_eq(kd_student_attach_teacher(attached, "teacher"),
                 KD_OK); /* below the working directory */
    const kd_losses wanted = small_train(named, 1), found = small_train(attached, 1);
    cr_expect_float_eq(found.total, wanted.total, 2e-2); /* its dtype is the processor's */
    kd_student_destroy(attached);
    kd_student_destroy(named);

    (void)snprintf(job, sizeof job,
                   SMALL(2) "teachers: [{checkpoint: %s, dtype: bf16, transport: hidden}]\n",
                   teacher);
    kd_student *rounded = small_student(job);
    const kd_losses near = small_train(rounded, 1);
    cr_expect_neq(near.total, wanted.total);
    cr_expect_float_eq(near.total, wanted.total, 2e-2);
    kd_student_destroy(rounded);
}

/* Three sequences in micro-batches of two: another cut of the same step. */
Test(kd, a_step_is_cut_into_micro_batches)
{
    kd_student *whole = small_student(SMALL(2));
    kd_student *cut = small_student(DATA MODEL "training: {" TRAINING
                                               ", dtype: f32, micro_batch_size: 2}\nseed: 2\n");
    const size_t n = 3 * T * V;
    float *wanted_logits = malloc(n * sizeof *wanted_logits), *logits = malloc(n * sizeof *logits);
    int32_t tokens[N], labels[N];
    kd_losses wanted, found;
    small_text(tokens, labels, 1);
    cr_assert_eq(kd_student_logits(whole, tokens, 3, wanted_logits), KD_OK);
    cr_assert_eq(kd_student_logits(cut, tokens, 3, logits), KD_OK);
    for (size_t i = 0; i < n; i++) {
        cr_assert_float_eq(logits[i], wanted_logits[i], 1e-5, "logit %zu", i);
        wanted_logits[i] += (float)(i % 7);
    }
    set(whole, "objective.balance.weight", "0"); /* the one loss that is a micro-batch's */
    set(cut, "objective.balance.weight", "0");
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(kd_student_step_on_logits(whole, tokens, labels, wanted_logits, 3, &wanted),
                     KD_OK);
        cr_assert_eq(kd_student_step_on_logits(cut, tokens, labels, wanted_logits, 3, &found),
                     KD_OK);
        cr_expect_float_eq(find(&found, "kd")->raw, find(&wanted, "kd")->raw, 1e-5);
        cr_expect_float_eq(found.gradient_norm, wanted.gradient_norm, 1e-5);
    }
    free(logits);
    free(wanted_logits);
    kd_student_destroy(cut);
    kd_student_destroy(whole);
}

Test(kd, target_logits_of_the_callers_teach_too)
{
    kd_student *student = small_student(SMALL(2));
    float *logits = calloc(N * V, sizeof *logits);
    int32_t tokens[N], labels[N];
    kd_losses first, last;
    small_text(tokens, labels, 0);
    for (int i = 0; i < N; i++) {
        logits[i * V + labels[i]] = 5.0f;
        labels[i] = i == 0 ? labels[i] : -100; /* the labels alone would teach next to nothing */
    }
    labels[9] = 3;
    set(student, "objective.kd.temperature", "1.0");
    cr_assert_eq(kd_student_step_on_logits(student, tokens, labels, logits, B, &first), KD_OK);
    for (int i = 0; i < 30; i++) {
        cr_assert_eq(kd_student_step_on_logits(student, tokens, labels, logits, B, &last), KD_OK);
    }
    cr_expect_eq(last.n_tokens, 2);
    cr_expect_lt(find(&last, "kd")->raw, 0.5 * find(&first, "kd")->raw);

    kd_student_set_distillation(student, false);
    cr_assert_eq(kd_student_step_on_logits(student, tokens, labels, logits, B, &last), KD_OK);
    cr_expect_null(find(&last, "kd"));
    free(logits);
    kd_student_destroy(student);
}

static void expect_refused(const char *job, kd_status wanted, const char *words)
{
    kd_student *student = NULL;
    cr_expect_eq(kd_student_create(job, &student), wanted, "%s", words);
    cr_expect_not_null(strstr(kd_error_text(), words), "found: %s", kd_error_text());
    cr_expect_null(student);
}

Test(kd, a_bad_job_is_refused_in_the_words_of_a_job_file)
{
    expect_refused(SMALL(1) "student: {}\n", KD_ERR_INVALID, "student");
    expect_refused(DATA MODEL "training: {stpes: 1}\n", KD_ERR_INVALID,
                   "job:3:12: training.stpes: no such field; did you mean \"steps\"?");
    expect_refused("]", KD_ERR_PROTO, "job:1");
    expect_refused("", KD_ERR_INVALID, "hidden_size: found nothing, expected a number");
    expect_refused(DATA MODEL, KD_ERR_INVALID, "training.steps: found nothing, expected a number");
    expect_refused(DATA F32 "student: {resources: {threads: 0}, model: {hidden_size: 16, " SHAPE
                            "}}",
                   KD_ERR_INVALID, "student.resources.threads: found 0, expected 1 to 1024");
    expect_refused(DATA MODEL "training: {steps: 1, learning_rate: .nan}\n", KD_ERR_INVALID,
                   "training.learning_rate: found nan");
    expect_refused(DATA F32 "student: {model: {type: mixtrall, hidden_size: 16, " SHAPE "}}",
                   KD_ERR_INVALID, "mixtral");
    expect_refused(DATA F32 "student: {model: {hidden_size: 0, " SHAPE "}}", KD_ERR_INVALID,
                   "student.model.hidden_size: found 0");
    expect_refused(DATA F32 "student: {init: checkpoint, checkpoint: /there/is/no/such/folder}",
                   KD_ERR_NOT_FOUND, "/there/is/no/such/folder");
    expect_refused(SMALL(1) "teachers: [{checkpoint: /there/is/no/such/folder}]", KD_ERR_NOT_FOUND,
                   "/there/is/no/such/folder");
    expect_refused("data: {sequence_length: 131072}\n" MODEL
                   "training: {steps: 1, batch_size: 1048576, micro_batch_size: 1048576}\n",
                   KD_ERR_ARG, "1048576 sequences");
}

/* A job that a daemon could run: what is about its files, its ranks and its end is left alone. */
Test(kd, what_only_a_daemon_needs_is_not_looked_at)
{
    kd_student *student = small_student(
        "output: out\nafter: [1]\nlimits: {max_restarts: 1}\n"
        "data: {files: [nowhere.txt], sequence_length: 8}\n"
        "student: {resources: {ranks: 3}, model: {hidden_size: 16, " SHAPE "}}\n" F32);
    (void)small_train(student, 1);
    kd_student_destroy(student);
}

Test(kd, sequences_longer_than_a_model_has_positions_are_refused)
{
    const char *teacher = small_teacher(); /* of 8 */
    kd_student *student = small_student("data: {sequence_length: 9}\n" MODEL F32);
    kd_set_quiet(true);
    cr_expect_eq(kd_student_attach_teacher(student, teacher), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "found sequences of 9 tokens, expected at most 8"));
    kd_student_destroy(student);
    expect_refused("data: {sequence_length: 9}\n" F32
                   "student: {init: checkpoint, checkpoint: teacher}\n",
                   KD_ERR_INVALID, "expected at most 8");
}

Test(kd, bad_calls_leave_the_student_usable)
{
    kd_student *student = small_student(SMALL(1));
    int32_t tokens[N] = {0}, labels[N] = {0};
    kd_losses losses = {.total = -7.0};
    cr_expect_eq(kd_student_step(student, tokens, labels, B + 1, &losses), KD_ERR_ARG);
    cr_expect_eq(kd_student_step(student, tokens, labels, 0, &losses), KD_ERR_ARG);
    cr_expect_eq(kd_student_step_on_logits(student, tokens, labels, NULL, B, &losses), KD_ERR_ARG);
    kd_scores scores = {.loss = -7.0};
    cr_expect_eq(kd_student_evaluate(student, tokens, NULL, B, &scores), KD_ERR_ARG);
    cr_expect_str_eq(kd_error_text(), "labels: found NULL, expected a pointer to one");
    cr_expect_eq(scores.loss, -7.0);
    cr_expect_eq(kd_student_attach_teacher(student, ""), KD_ERR_ARG);
    cr_expect_str_eq(kd_error_text(), "found \"\", expected the folder of a teacher");
    tokens[3] = V;
    cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "token 3: found 256, expected 0 to 255"));
    cr_expect_eq(kd_student_attach_teacher(student, temporary_path("nobody")), KD_ERR_NOT_FOUND);
    kd_student *teacher =
        small_student(DATA "student: {model: {vocab_size: 512, hidden_size: 16, " SHAPE "}}\n" F32);
    cr_assert_eq(kd_student_save(teacher, temporary_path("large")), KD_OK);
    cr_expect_eq(kd_student_attach_teacher(student, temporary_path("large")), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "512"));
    cr_expect_eq(losses.total, -7.0);
    (void)small_train(student, 1);
    kd_student_destroy(teacher);
    kd_student_destroy(student);
}

Test(kd, steps_that_fail_leave_a_taught_student_usable)
{
    kd_student *student = small_student(SMALL(1));
    int32_t tokens[N] = {0}, labels[N] = {0};
    kd_losses losses = {0};
    cr_assert_eq(kd_student_save(student, temporary_path("teacher")), KD_OK);
    cr_assert_eq(kd_student_attach_teacher(student, temporary_path("teacher")), KD_OK);
    for (int i = 0; i < 5; i++) {
        tokens[3] = V;
        cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_ERR_INVALID);
        tokens[3] = 1;
        cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_OK);
        cr_expect_not_null(find(&losses, "kd"));
    }
    kd_student_destroy(student);
}

Test(kd, bf16_trains_too)
{
    const char *teacher = small_teacher();
    kd_student *student = small_student(
        DATA MODEL "training: {batch_size: 4, steps: 50, warmup_steps: 5, learning_rate: 1e-2, "
                   "dtype: bf16}\nseed: 2\n");
    cr_assert_eq(kd_student_attach_teacher(student, teacher), KD_OK);
    const kd_losses first = small_train(student, 1), last = small_train(student, 40);
    cr_expect_lt(last.total, 0.8 * first.total);
    cr_expect_lt(last.learning_rate, 1e-2);
    kd_student_destroy(student);
}

Test(kd, a_teacher_that_cannot_be_attached_leaves_the_one_before)
{
    kd_student *student = small_student(SMALL(2));
    int32_t tokens[N], labels[N];
    kd_losses before, after;
    small_text(tokens, labels, 0);
    kd_student *wide =
        small_student(DATA "student: {model: {vocab_size: 512, hidden_size: 16, " SHAPE "}}\n" F32);
    cr_assert_eq(kd_student_save(wide, temporary_path("wide")), KD_OK);
    cr_assert_eq(kd_student_attach_teacher(student, small_teacher()), KD_OK);
    cr_assert_eq(kd_student_losses(student, tokens, labels, B, &before), KD_OK);
    kd_set_quiet(true);
    cr_expect_eq(kd_student_attach_teacher(student, "wide"), KD_ERR_INVALID);
    cr_expect_eq(kd_student_attach_teacher(student, "nobody"), KD_ERR_NOT_FOUND);
    expect_value(student, "teachers.0.checkpoint", temporary_path("teacher"));
    cr_assert_eq(kd_student_losses(student, tokens, labels, B, &after), KD_OK);
    cr_expect_not_null(find(&after, "kd"));
    cr_expect_eq(after.total, before.total);
    kd_student_destroy(wide);
    kd_student_destroy(student);
}
