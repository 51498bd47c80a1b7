/* The public C API as a program of its own uses it: kd.h and libkd.so, nothing else. */
#include <criterion/criterion.h>

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kd.h"
#include "tests/support/temporary.h"

enum { B = 4, T = 8, V = 16, N = B * T };

TestSuite(kd, .init = temporary_enter, .fini = temporary_leave);

static kd_student_options small_options(uint64_t seed)
{
    kd_student_options o = kd_student_options_default();
    o.model.vocab_size = V;
    o.model.hidden_size = 16;
    o.model.num_layers = 2;
    o.model.num_heads = 2;
    o.model.intermediate_size = 16;
    o.model.num_experts = 4;
    o.seed = seed;
    o.dtype = KD_COMPUTE_F32;
    o.max_sequences = B;
    o.sequence_length = T;
    o.learning_rate = 1e-2;
    return o;
}

static kd_student *create(const kd_student_options *options)
{
    kd_student *student;
    cr_assert_eq(kd_student_create(options, &student), KD_OK, "%s", kd_error_text());
    return student;
}

/* A text with a rule, so that there is something to learn: each token is the one before plus 3
 * or 5. */
static void make_text(int32_t *tokens, int32_t *labels, int32_t seed)
{
    for (int32_t i = 0, token = seed; i < N; i++) {
        tokens[i] = token % V;
        token += (i * 7 + seed) % 3 == 0 ? 5 : 3;
        labels[i] = token % V;
    }
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

static kd_losses train(kd_student *student, int n_steps)
{
    kd_losses losses = {0};
    for (int i = 0; i < n_steps; i++) {
        int32_t tokens[N], labels[N];
        make_text(tokens, labels, (int32_t)(kd_student_steps(student) % 5));
        cr_assert_eq(kd_student_step(student, tokens, labels, B, &losses), KD_OK, "%s",
                     kd_error_text());
    }
    return losses;
}

/* A model folder that holds something worth teaching. */
static const char *make_teacher(void)
{
    const kd_student_options options = small_options(1);
    kd_student *teacher = create(&options);
    (void)train(teacher, 60);
    cr_assert_eq(kd_student_save(teacher, temporary_path("teacher")), KD_OK);
    kd_student_destroy(teacher);
    return temporary_path("teacher");
}

Test(kd, a_student_learns_from_a_teacher)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    cr_assert_eq(kd_student_attach_teacher(student, make_teacher()), KD_OK);
    cr_assert_eq(kd_student_set_temperature(student, 2.0), KD_OK);
    const kd_losses first = train(student, 1), last = train(student, 60);
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
    const kd_student_options options = small_options(2);
    const char *teacher = make_teacher();
    kd_student *student = create(&options);
    kd_losses losses = train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    cr_assert_eq(kd_student_attach_teacher(student, teacher), KD_OK);
    losses = train(student, 1);
    cr_expect_not_null(find(&losses, "kd"));
    kd_student_set_distillation(student, false);
    losses = train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    kd_student_set_distillation(student, true);
    losses = train(student, 1);
    cr_expect_not_null(find(&losses, "kd"));
    cr_assert_eq(kd_student_set_weight(student, "kd", 0.0), KD_OK);
    losses = train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    cr_assert_eq(kd_student_set_weight(student, "kd", 1.0), KD_OK);
    cr_assert_eq(kd_student_attach_teacher(student, NULL), KD_OK);
    losses = train(student, 1);
    cr_expect_null(find(&losses, "kd"));
    kd_student_destroy(student);
}

Test(kd, a_step_needs_no_labels)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    int32_t tokens[N], labels[N];
    kd_losses losses;
    make_text(tokens, labels, 0);
    cr_assert_eq(kd_student_attach_teacher(student, make_teacher()), KD_OK);
    cr_assert_eq(kd_student_step(student, tokens, NULL, B, &losses), KD_OK);
    cr_expect_not_null(find(&losses, "kd"));
    cr_expect_null(find(&losses, "hard"));
    cr_expect_eq(losses.n_tokens, N);
    kd_student_destroy(student);
}

/* hard has 0.3 beside a teacher; alone it is all there is to learn from. */
Test(kd, hard_targets_weigh_more_while_nothing_distils)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    double weight = 0.0;
    cr_assert_eq(kd_student_attach_teacher(student, make_teacher()), KD_OK);
    kd_losses losses = train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 0.3);
    kd_student_set_distillation(student, false);
    losses = train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 1.0);
    kd_student_set_distillation(student, true);
    cr_assert_eq(kd_student_get_weight(student, "hard", &weight), KD_OK);
    cr_expect_eq(weight, 0.3);
    cr_assert_eq(kd_student_set_weight(student, "hard", 0.25), KD_OK);
    kd_student_set_distillation(student, false);
    losses = train(student, 1);
    cr_expect_eq(find(&losses, "hard")->weight, 0.25, "as it was given");
    kd_student_destroy(student);
}

Test(kd, losses_and_logits_can_be_seen_without_a_step)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    const size_t n = N * (size_t)options.model.vocab_size;
    float *mine = malloc(n * sizeof *mine), *taught = malloc(n * sizeof *taught);
    int32_t tokens[N], labels[N];
    kd_losses asked, stepped;
    make_text(tokens, labels, 0);
    kd_set_quiet(true);
    cr_expect_eq(kd_student_teacher_logits(student, tokens, B, taught), KD_ERR_STATE);
    cr_expect_eq(kd_student_logits(student, tokens, 0, mine), KD_ERR_ARG);
    cr_expect_not(kd_student_distils(student));
    cr_assert_eq(kd_student_attach_teacher(student, make_teacher()), KD_OK);
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

Test(kd, weights_are_set_by_name)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    double weight = 0.0;
    cr_assert_eq(kd_student_get_weight(student, "hard", &weight), KD_OK);
    cr_expect_eq(weight, 1.0, "nobody teaches");
    cr_assert_eq(kd_student_set_weight(student, "hard", 0.5), KD_OK);
    cr_assert_eq(kd_student_set_weight(student, "balance", 0.0), KD_OK);
    cr_assert_eq(kd_student_get_weight(student, "hard", &weight), KD_OK);
    cr_expect_eq(weight, 0.5);
    const kd_losses losses = train(student, 1);
    cr_expect_float_eq(find(&losses, "hard")->weighted, 0.5 * find(&losses, "hard")->raw, 1e-12);
    cr_expect_null(find(&losses, "balance"));

    cr_expect_eq(kd_student_set_weight(student, "hrad", 1.0), KD_ERR_NOT_FOUND);
    cr_expect_not_null(strstr(kd_error_text(), "did you mean 'hard'"));
    cr_expect_eq(kd_student_get_weight(student, "hrad", &weight), KD_ERR_NOT_FOUND);
    cr_expect_eq(kd_student_set_weight(student, "hard", -1.0), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "hard.weight: found -1"));
    cr_expect_eq(kd_student_set_weight(student, "hard", NAN), KD_ERR_INVALID);
    cr_expect_eq(kd_student_set_temperature(student, 0.0), KD_ERR_INVALID);
    cr_assert_eq(kd_student_get_weight(student, "hard", &weight), KD_OK);
    cr_expect_eq(weight, 0.5);
    kd_student_destroy(student);
}

Test(kd, target_logits_of_the_callers_teach_too)
{
    const kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    float *logits = calloc(N * V, sizeof *logits);
    int32_t tokens[N], labels[N];
    kd_losses first, last;
    make_text(tokens, labels, 0);
    for (int i = 0; i < N; i++) {
        logits[i * V + labels[i]] = 5.0f;
        labels[i] = i == 0 ? labels[i] : -100; /* the labels alone would teach next to nothing */
    }
    labels[9] = 3;
    cr_assert_eq(kd_student_set_temperature(student, 1.0), KD_OK);
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

Test(kd, a_saved_student_is_loaded_as_it_was)
{
    kd_student_options options = small_options(2);
    kd_student *student = create(&options);
    int32_t tokens[N], labels[N];
    kd_scores wanted, found;
    (void)train(student, 20);
    make_text(tokens, labels, 3);
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &wanted), KD_OK);
    cr_expect_eq(wanted.n_tokens, N);
    cr_expect_float_eq(wanted.perplexity, exp(wanted.loss), 1e-9);
    cr_assert_eq(kd_student_save(student, temporary_path("saved")), KD_OK);
    kd_student_destroy(student);

    options.folder = temporary_path("saved");
    options.model = (kd_student_model){0};
    student = create(&options);
    cr_assert_eq(kd_student_evaluate(student, tokens, labels, B, &found), KD_OK);
    cr_expect_eq(found.loss, wanted.loss);
    cr_expect_eq(found.accuracy, wanted.accuracy);
    cr_expect_eq(kd_student_steps(student), 0);
    kd_student_destroy(student);
}

Test(kd, training_goes_on_from_a_checkpoint_exactly)
{
    const kd_student_options options = small_options(2), other_options = small_options(3);
    kd_student_options wide_options = small_options(3);
    kd_student *straight = create(&options), *resumed = create(&other_options);
    (void)train(straight, 3);
    cr_assert_eq(kd_student_checkpoint(straight, temporary_path("state")), KD_OK);
    (void)train(resumed, 1);
    cr_assert_eq(kd_student_resume(resumed, temporary_path("state")), KD_OK);
    cr_expect_eq(kd_student_steps(resumed), 3);
    const kd_losses wanted = train(straight, 3), found = train(resumed, 3);
    cr_expect_eq(found.total, wanted.total);
    cr_expect_eq(found.gradient_norm, wanted.gradient_norm);

    cr_expect_eq(kd_student_resume(resumed, temporary_path("nothing")), KD_ERR_NOT_FOUND);
    wide_options.model.hidden_size = 32;
    kd_student *wide = create(&wide_options);
    cr_expect_eq(kd_student_resume(wide, temporary_path("state")), KD_ERR_INVALID);
    kd_student_destroy(wide);
    kd_student_destroy(straight);
    kd_student_destroy(resumed);
}

static void expect_refused(kd_student_options options, kd_status wanted, const char *words)
{
    kd_student *student = NULL;
    cr_expect_eq(kd_student_create(&options, &student), wanted);
    cr_expect_not_null(strstr(kd_error_text(), words), "found: %s", kd_error_text());
    cr_expect_null(student);
}

Test(kd, bad_options_are_refused)
{
    kd_student_options options = small_options(1);
    options.n_threads = 0;
    expect_refused(options, KD_ERR_ARG, "n_threads 0");
    options = small_options(1);
    options.learning_rate = NAN;
    expect_refused(options, KD_ERR_INVALID, "learning_rate: found nan");
    options = small_options(1);
    options.model.type = "mixtrall";
    expect_refused(options, KD_ERR_INVALID, "mixtral");
    options = small_options(1);
    options.model.hidden_size = 0;
    expect_refused(options, KD_ERR_INVALID, "hidden_size");
    options = small_options(1);
    options.folder = "/there/is/no/such/folder";
    expect_refused(options, KD_ERR_NOT_FOUND, "/there/is/no/such/folder");
    options = small_options(1);
    options.max_sequences = INT64_MAX;
    expect_refused(options, KD_ERR_ARG, "9223372036854775807 sequences");
}

Test(kd, bad_calls_leave_the_student_usable)
{
    const kd_student_options options = small_options(1);
    kd_student_options teacher_options = small_options(1);
    kd_student *student = create(&options);
    int32_t tokens[N] = {0}, labels[N] = {0};
    kd_losses losses = {.total = -7.0};
    cr_expect_eq(kd_student_step(student, tokens, labels, B + 1, &losses), KD_ERR_ARG);
    cr_expect_eq(kd_student_step(student, tokens, labels, 0, &losses), KD_ERR_ARG);
    cr_expect_eq(kd_student_step_on_logits(student, tokens, labels, NULL, B, &losses), KD_ERR_ARG);
    tokens[3] = V;
    cr_expect_eq(kd_student_step(student, tokens, labels, B, &losses), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "token 3: found 16, expected 0 to 15"));
    cr_expect_eq(kd_student_attach_teacher(student, temporary_path("nobody")), KD_ERR_NOT_FOUND);
    teacher_options.model.vocab_size = V + 256;
    kd_student *teacher = create(&teacher_options);
    cr_assert_eq(kd_student_save(teacher, temporary_path("large")), KD_OK);
    cr_expect_eq(kd_student_attach_teacher(student, temporary_path("large")), KD_ERR_INVALID);
    cr_expect_not_null(strstr(kd_error_text(), "272"));
    cr_expect_eq(losses.total, -7.0);
    (void)train(student, 1);
    kd_student_destroy(teacher);
    kd_student_destroy(student);
}

Test(kd, steps_that_fail_leave_a_taught_student_usable)
{
    const kd_student_options options = small_options(1);
    kd_student *student = create(&options);
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
    kd_student_options options = small_options(2);
    options.dtype = KD_COMPUTE_BF16;
    options.warmup_steps = 5;
    options.decay_steps = 50;
    const char *teacher = make_teacher();
    kd_student *student = create(&options);
    cr_assert_eq(kd_student_attach_teacher(student, teacher), KD_OK);
    const kd_losses first = train(student, 1), last = train(student, 40);
    cr_expect_lt(last.total, 0.8 * first.total);
    cr_expect_lt(last.learning_rate, 1e-2);
    kd_student_destroy(student);
}

Test(kd, the_library_shows_nothing_but_its_header)
{
    cr_expect_not_null(dlsym(RTLD_DEFAULT, "kd_student_create"));
    cr_expect_null(dlsym(RTLD_DEFAULT, "kd_trainer_create"));
    cr_expect_null(dlsym(RTLD_DEFAULT, "kd_fail"));
    cr_expect_str_eq(kd_version(), "0.1.0");
}
