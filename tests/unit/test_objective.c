/* The objective against the formulas in doubles, written out over whole (N, V) logits. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "distill/objective.h"
#include "distill/teacher.h"
#include "tests/support/back_end.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_objective.h"

#define LOGITS KD__TEACHER__TRANSPORT__LOGITS
#define HIDDEN KD__TEACHER__TRANSPORT__HIDDEN

enum { N_BATCH = 2, N_TOKENS = 5, N_ROWS = N_BATCH * N_TOKENS };

static const int32_t test_labels[N_ROWS] = {3, -100, 0, 10, 7, 7, 2, -100, 9, 1};

/* A student after its forward pass, and a message of a teacher for the same tokens. */
typedef struct scene {
    tiny_model student, teacher_model;
    kd_teacher *teacher;
    kd_decoder *decoder;
    kd_objective *objective;
    kd_tensor labels;
    void *message;
} scene;

static scene scene_create(const tiny_objective *objective,
                          Kd__Teacher__Transport transport,
                          int64_t teacher_vocab)
{
    scene s;
    int32_t tokens[N_ROWS];
    kd_model_config student = tiny_config(&kd_model_mixtral);
    kd_model_config teacher = tiny_config(&kd_model_qwen3_moe);
    const kd_teacher_settings teacher_settings = {.max_batch = N_BATCH, .n_tokens = N_TOKENS};

    teacher.vocab_size = teacher_vocab;
    tiny_tokens(tokens, N_ROWS,
                student.vocab_size < teacher_vocab ? student.vocab_size : teacher_vocab, 4);
    s.student = tiny_model_with_seed(student, KD_F32, KD_PARAMS_TRAIN, 1);
    s.teacher_model = tiny_model_with_seed(teacher, KD_F32, KD_PARAMS_INFER, 2);
    cr_assert_eq(kd_teacher_create(s.teacher_model.params, &teacher_settings, &s.teacher), KD_OK);
    kd_backend *be = s.student.be;
    const kd_teacher_view seen = {
        .config = &teacher, .transport = transport, .lm_head = kd_teacher_lm_head(s.teacher)};
    const kd_batch batch = {.n_batch = N_BATCH, .n_tokens = N_TOKENS, .tokens = tokens};
    cr_assert_eq(
        kd_objective_create(be, &objective->message, &student, &seen, 1, N_ROWS, &s.objective),
        KD_OK);
    const kd_signal_plan *plan = kd_objective_signals(s.objective);
    const kd_teacher_part all = {plan, 0, ~UINT64_C(0)};
    s.message =
        be->ops->alloc(be, KD_MEMORY_DEVICE, plan->messages[0].message_bytes + KD_ARENA_ALIGN);
    cr_assert_eq(kd_teacher_fill(s.teacher, &batch, &all, s.message), KD_OK);
    kd_backend *writer = s.teacher_model.be;
    be->ops->event_wait(be, writer->ops->event_record(writer));

    s.decoder = tiny_decoder(
        &s.student,
        (kd_decoder_settings){.max_batch = N_BATCH, .n_tokens = N_TOKENS, .train = true});
    tiny_forward(s.decoder, tokens, N_BATCH, N_TOKENS);
    s.labels =
        kd_tensor_1d(be->ops->alloc(be, KD_MEMORY_DEVICE, sizeof test_labels), KD_I32, N_ROWS);
    be->ops->upload(be, s.labels, test_labels);
    return s;
}

static void scene_destroy(scene *s)
{
    kd_backend *be = s->student.be;
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    be->ops->free(be, s->labels.data);
    be->ops->free(be, s->message);
    kd_objective_destroy(s->objective);
    kd_decoder_destroy(s->decoder);
    kd_teacher_destroy(s->teacher); /* and the parameters of teacher_model */
    kd_backend_destroy(s->teacher_model.be);
    tiny_model_destroy(&s->student);
}

/* Each loss counts as many rows, so that a gradient times that number is one of sums. */
static const int64_t one_row[] = {1, 1, 1, 1};

/* What one run gave. */
typedef struct outcome {
    double sums[KD_VOCAB_SUMS + 2];
    float *d_hidden, *d_lm_head;
} outcome;

static outcome run(scene *s, uint64_t step, void *message)
{
    kd_backend *be = s->student.be;
    outcome o = {0};
    be->ops->zero(be, kd_decoder_lm_head_weight(s->decoder).grad);
    kd_objective_begin(s->objective, step, one_row, true);
    const kd_tensor d_hidden =
        kd_objective_run(s->objective, s->decoder, N_ROWS, s->labels, &message);
    o.d_hidden = tiny_values(be, d_hidden);
    o.d_lm_head = tiny_values(be, kd_decoder_lm_head_weight(s->decoder).grad);
    be->ops->download(be, o.sums, kd_objective_sums(s->objective));
    return o;
}

static void outcome_release(outcome *o)
{
    free(o->d_hidden);
    free(o->d_lm_head);
}

/* (N, V) = x (N, C) w (V, C)^T in doubles. */
static double *multiply(kd_backend *be, kd_tensor x, kd_tensor w)
{
    const int64_t n = kd_tensor_rows(x), v = kd_tensor_rows(w), c = kd_tensor_columns(x);
    float *a = tiny_values(be, x), *b = tiny_values(be, w);
    double *y = calloc((size_t)(n * v), sizeof *y);
    for (int64_t i = 0; i < n * v; i++) {
        for (int64_t k = 0; k < c; k++) {
            y[i] += (double)a[i / v * c + k] * (double)b[i % v * c + k];
        }
    }
    free(a);
    free(b);
    return y;
}

static void softmax(double *p, const double *x, int64_t n, double temperature)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += p[i] = exp(x[i] / temperature);
    }
    for (int64_t i = 0; i < n; i++) {
        p[i] /= sum;
    }
}

/* Sums over valid rows of KL and CE, and d_logits (N, V) of alpha * scale * KL + beta * CE. */
typedef struct naive_loss {
    double kd, hard, rows;
    double *d_logits;
} naive_loss;

static naive_loss naive(const double *student,
                        const double *teacher,
                        int64_t v_student,
                        int64_t v_teacher,
                        const double *weights, /* alpha, beta, T, scale */
                        const int32_t *labels)
{
    naive_loss l = {.d_logits = calloc((size_t)(N_ROWS * v_student), sizeof(double))};
    const int64_t v = v_student < v_teacher ? v_student : v_teacher;
    double p[32], q[32], hard[32];
    for (int64_t r = 0; r < N_ROWS; r++) {
        const double *x = student + r * v_student;
        if (labels[r] < 0) {
            continue;
        }
        softmax(p, teacher + r * v_teacher, v, weights[2]);
        softmax(q, x, v, weights[2]);
        softmax(hard, x, v_student, 1.0);
        l.rows++;
        l.hard -= log(hard[labels[r]]);
        for (int64_t i = 0; i < v_student; i++) {
            double *d = &l.d_logits[r * v_student + i];
            *d = weights[1] * (hard[i] - (i == labels[r] ? 1.0 : 0.0));
            if (i < v) {
                l.kd += weights[3] * p[i] * (log(p[i]) - log(q[i]));
                *d += weights[0] * weights[3] / weights[2] * (q[i] - p[i]);
            }
        }
    }
    return l;
}

static void expect_close(const float *found, const double *wanted, int64_t n, const char *what)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        difference += pow((double)found[i] - wanted[i], 2.0);
        size += wanted[i] * wanted[i];
    }
    cr_expect_lt(difference / size, 1e-11, "%s: %g", what, difference / size);
}

/* Gradients of the hidden states and of the lm_head that follow from d_logits. */
static void expect_gradients(scene *s, const outcome *o, const double *d_logits)
{
    kd_backend *be = s->student.be;
    const int64_t v = s->student.params->config.vocab_size;
    const int64_t c = s->student.params->config.hidden_size;
    float *hidden = tiny_values(be, kd_decoder_hidden(s->decoder));
    float *head = tiny_values(be, kd_decoder_lm_head(s->decoder));
    double *d_hidden = calloc((size_t)(N_ROWS * c), sizeof *d_hidden);
    double *d_head = calloc((size_t)(v * c), sizeof *d_head);
    for (int64_t r = 0; r < N_ROWS; r++) {
        for (int64_t i = 0; i < v; i++) {
            for (int64_t k = 0; k < c; k++) {
                d_hidden[r * c + k] += d_logits[r * v + i] * (double)head[i * c + k];
                d_head[i * c + k] += d_logits[r * v + i] * (double)hidden[r * c + k];
            }
        }
    }
    expect_close(o->d_hidden, d_hidden, N_ROWS * c, "d_hidden");
    expect_close(o->d_lm_head, d_head, v * c, "d_lm_head");
    free(d_head);
    free(d_hidden);
    free(head);
    free(hidden);
}

static void expect_naive(int64_t teacher_vocab, double temperature, bool scale_by_t2)
{
    tiny_objective objective;
    tiny_objective_init(&objective, 0.7, 0.3, temperature);
    objective.kd.has_scale_by_t2 = 1;
    objective.kd.scale_by_t2 = scale_by_t2;
    scene s = scene_create(&objective, LOGITS, teacher_vocab);
    const double weights[] = {0.7, 0.3, temperature, scale_by_t2 ? temperature * temperature : 1.0};
    double *student =
        multiply(s.student.be, kd_decoder_hidden(s.decoder), kd_decoder_lm_head(s.decoder));
    const kd_signal *signal = &kd_objective_signals(s.objective)->signals[0];
    float *sent = tiny_values(s.student.be, kd_signal_view(signal, s.message, N_ROWS));
    double *teacher = malloc((size_t)(N_ROWS * teacher_vocab) * sizeof *teacher);
    for (int64_t i = 0; i < N_ROWS * teacher_vocab; i++) {
        teacher[i] = (double)sent[i];
    }
    free(sent);
    naive_loss wanted = naive(student, teacher, 11, teacher_vocab, weights, test_labels);
    outcome o = run(&s, 0, s.message);

    kd_loss_value values[4];
    (void)kd_objective_report(s.objective, o.sums, values);
    cr_expect_float_eq(values[0].raw, wanted.kd, 2e-5 * wanted.kd);
    cr_expect_float_eq(o.sums[KD_VOCAB_SUM_HARD], wanted.hard, 1e-5 * wanted.hard);
    cr_expect_eq(o.sums[KD_VOCAB_SUM_ROWS], wanted.rows);
    cr_expect_eq(wanted.rows, 8.0);
    expect_gradients(&s, &o, wanted.d_logits);
    outcome_release(&o);
    free(wanted.d_logits);
    free(teacher);
    free(student);
    scene_destroy(&s);
}

Test(objective, follows_the_formulas)
{
    expect_naive(11, 1.0, true);
    expect_naive(11, 4.0, true);
    expect_naive(11, 2.0, false);
}

Test(objective, padding_of_either_vocabulary_gets_no_divergence)
{
    expect_naive(13, 2.0, true);
    expect_naive(9, 2.0, true);
}

Test(objective, hidden_states_give_the_same_as_logits)
{
    outcome outcomes[2];
    tiny_objective objective;
    tiny_objective_init(&objective, 0.7, 0.3, 2.0);
    for (int i = 0; i < 2; i++) {
        scene s = scene_create(&objective, i == 0 ? LOGITS : HIDDEN, 11);
        cr_expect_eq(kd_objective_signals(s.objective)->signals[0].kind,
                     i == 0 ? KD_SIGNAL_LOGITS : KD_SIGNAL_HIDDEN);
        outcomes[i] = run(&s, 0, s.message);
        scene_destroy(&s);
    }
    const double gap = kd_test_gap_of_order(KD_F32);
    const double kd = outcomes[0].sums[KD_VOCAB_SUM_KD];
    cr_expect_float_eq(outcomes[1].sums[KD_VOCAB_SUM_KD], kd, gap * kd);
    cr_expect_leq(tiny_nmse(outcomes[0].d_hidden, outcomes[1].d_hidden, N_ROWS * 8), gap * gap);
    cr_expect_leq(tiny_nmse(outcomes[0].d_lm_head, outcomes[1].d_lm_head, 11 * 8), gap * gap);
    outcome_release(&outcomes[0]);
    outcome_release(&outcomes[1]);
}

Test(objective, signals_are_those_that_a_weight_could_ask_for)
{
    const kd_model_config config = tiny_config(&kd_model_mixtral);
    const kd_teacher_view teacher = {.config = &config};
    tiny_objective objective;
    kd_signal_plan plan;
    tiny_objective_init(&objective, 0.0, 1.0, 1.0);
    cr_assert_eq(kd_objective_plan(&objective.message, &config, &teacher, 1, N_ROWS, &plan), KD_OK);
    cr_expect_eq(plan.n_signals, 1);
    kd_signal_plan_release(&plan);
    cr_assert_eq(kd_objective_plan(&objective.message, &config, NULL, 0, N_ROWS, &plan), KD_OK);
    cr_expect_eq(plan.n_signals, 0);
    kd_signal_plan_release(&plan);
    objective.message.kd = NULL;
    cr_assert_eq(kd_objective_plan(&objective.message, &config, &teacher, 1, N_ROWS, &plan), KD_OK);
    cr_expect_eq(plan.n_signals, 0);
    kd_signal_plan_release(&plan);
}

Test(objective, losses_read_signals_while_they_have_weight)
{
    tiny_objective objective;
    tiny_points room;
    tiny_objective_init(&objective, 0.0, 1.0, 1.0);
    cr_expect_eq(kd_objective_readers(&objective.message, 0), 0);
    objective.kd_weight = tiny_schedule(&room, KD__SCHEDULE__KIND__STEP, 0, 0.0, 5, 0.7);
    cr_expect_eq(kd_objective_readers(&objective.message, 4), 0);
    cr_expect_eq(kd_objective_readers(&objective.message, 5), 1);
    objective.message.kd = NULL;
    cr_expect_eq(kd_objective_readers(&objective.message, 5), 0);
}

Test(objective, a_weight_of_zero_at_a_step_is_not_computed_then)
{
    tiny_objective objective;
    tiny_points room;
    tiny_objective_init(&objective, 0.0, 0.3, 2.0);
    objective.kd_weight = tiny_schedule(&room, KD__SCHEDULE__KIND__STEP, 0, 0.0, 5, 0.7);
    scene s = scene_create(&objective, LOGITS, 11);
    kd_loss_value values[4];

    outcome o = run(&s, 4, s.message);
    cr_expect_eq(o.sums[KD_VOCAB_SUM_KD], 0.0);
    cr_assert_eq(kd_objective_n_losses(s.objective), 4);
    (void)kd_objective_report(s.objective, o.sums, values);
    cr_expect_str_eq(values[0].name, "kd");
    cr_expect_not(values[0].computed);
    outcome_release(&o);

    o = run(&s, 5, s.message);
    cr_expect_gt(o.sums[KD_VOCAB_SUM_KD], 0.0);
    (void)kd_objective_report(s.objective, o.sums, values);
    cr_expect(values[0].computed);
    cr_expect_eq(values[0].weight, 0.7);
    outcome_release(&o);
    scene_destroy(&s);
}

Test(objective, without_a_message_only_the_labels_teach)
{
    tiny_objective both, alone;
    tiny_objective_init(&both, 0.7, 1.0, 2.0);
    tiny_objective_init(&alone, 0.0, 1.0, 2.0);
    scene s = scene_create(&both, LOGITS, 11), t = scene_create(&alone, LOGITS, 11);
    outcome o = run(&s, 0, NULL), wanted = run(&t, 0, NULL);
    cr_expect_eq(o.sums[KD_VOCAB_SUM_KD], 0.0);
    cr_expect_arr_eq(o.d_hidden, wanted.d_hidden, N_ROWS * 8 * sizeof(float));
    outcome_release(&o);
    outcome_release(&wanted);
    scene_destroy(&s);
    scene_destroy(&t);
}

Test(objective, a_loss_that_counts_no_row_is_zero)
{
    const int64_t counts[4] = {0};
    const double sums[KD_VOCAB_SUMS + 2] = {0};
    tiny_objective objective;
    kd_loss_value values[4];
    tiny_objective_init(&objective, 0.5, 0.25, 2.0);
    scene s = scene_create(&objective, LOGITS, 11);
    kd_objective_begin(s.objective, 0, counts, true);
    const kd_tensor d_hidden =
        kd_objective_run(s.objective, s.decoder, N_ROWS, s.labels, &s.message);
    float *found = tiny_values(s.student.be, d_hidden);
    for (int i = 0; i < N_ROWS * 8; i++) {
        cr_assert_eq(found[i], 0.0f);
    }
    cr_expect_not(kd_objective_teaches(s.objective));
    cr_expect_eq(kd_objective_report(s.objective, sums, values), 0.0);
    for (int i = 0; i < 2; i++) {
        cr_expect(values[i].computed);
        cr_expect_eq(values[i].raw, 0.0);
    }
    free(found);
    scene_destroy(&s);
}

Test(objective, report_divides_each_loss_by_its_own_count)
{
    const double sums[] = {
        [KD_VOCAB_SUM_KD] = 8.0,
        [KD_VOCAB_SUM_HARD] = 12.0,
        [KD_VOCAB_SUMS] = 2 * 5.0, /* over two layers */
        [KD_VOCAB_SUMS + 1] = 2 * 60.0,
    };
    const int64_t counts[] = {4, 3, 5, 6};
    tiny_objective objective;
    kd_loss_value values[4];
    tiny_objective_init(&objective, 0.5, 0.25, 2.0);
    objective.balance_weight.value = 0.01;
    objective.z_weight.value = 0.001;
    scene s = scene_create(&objective, LOGITS, 11);
    kd_objective_begin(s.objective, 0, counts, true);
    (void)kd_objective_run(s.objective, s.decoder, N_ROWS, s.labels, &s.message);
    const double total = kd_objective_report(s.objective, sums, values);
    cr_expect_eq(values[0].raw, 8.0, "2 * T * T");
    cr_expect_eq(values[0].weighted, 4.0);
    cr_expect_eq(values[1].raw, 4.0);
    cr_expect_eq(values[2].raw, 1.0);
    cr_expect_eq(values[3].raw, 10.0);
    cr_expect_float_eq(total, 4.0 + 1.0 + 0.01 + 0.01, 1e-12);
    scene_destroy(&s);
}

Test(objective, each_loss_counts_its_own_rows)
{
    const int32_t segments[N_ROWS] = {0, 0, 0, 1, 1, 0, 0, 0, -1, -1};
    kd_batch batch = {.n_batch = N_BATCH, .n_tokens = N_TOKENS, .labels = test_labels};
    tiny_objective objective;
    tiny_objective_init(&objective, 0.5, 0.25, 2.0);
    scene s = scene_create(&objective, LOGITS, 11);
    int64_t labelled[4] = {0}, bare[4] = {0};
    kd_objective_count(s.objective, &batch, labelled);
    kd_objective_count(s.objective, &batch, labelled); /* adds */
    batch.labels = NULL;
    batch.segments = segments;
    kd_objective_count(s.objective, &batch, bare);
    const int64_t wanted_labelled[] = {16, 16, 20, 20}, wanted_bare[] = {8, 8, 8, 8};
    cr_expect_arr_eq(labelled, wanted_labelled, sizeof labelled);
    cr_expect_arr_eq(bare, wanted_bare, sizeof bare);
    scene_destroy(&s);
}

Test(objective, what_was_not_there_cannot_be_added)
{
    tiny_objective objective;
    tiny_objective_init(&objective, 0.5, 0.25, 2.0);
    objective.message.z = NULL;
    scene s = scene_create(&objective, LOGITS, 11);
    objective.message.z = &objective.z;
    kd_fault_quiet(1);
    cr_expect_eq(kd_objective_set(s.objective, &objective.message), KD_ERR_STATE);
    EXPECT_FAULT("loss z cannot be added");
    objective.message.z = NULL;
    cr_expect_eq(kd_objective_set(s.objective, &objective.message), KD_OK);
    objective.message.z = &objective.z;
    cr_expect_eq(kd_objective_set(s.objective, &objective.message), KD_ERR_STATE);
    scene_destroy(&s);
}

/* What one call leaves out rests; what counts is what there was at creation. */
Test(objective, a_loss_that_was_left_out_comes_back)
{
    tiny_objective objective;
    tiny_objective_init(&objective, 0.5, 0.25, 2.0);
    scene s = scene_create(&objective, LOGITS, 11);
    outcome wanted = run(&s, 0, s.message);
    for (int i = 0; i < 2; i++) {
        objective.message.kd = NULL;
        objective.message.hard = NULL;
        cr_expect_eq(kd_objective_set(s.objective, &objective.message), KD_OK);
        outcome o = run(&s, 0, s.message);
        cr_expect_eq(o.sums[KD_VOCAB_SUM_KD], 0.0);
        outcome_release(&o);

        objective.message.kd = &objective.kd;
        objective.message.hard = &objective.hard;
        cr_assert_eq(kd_objective_set(s.objective, &objective.message), KD_OK);
        o = run(&s, 0, s.message);
        cr_expect_arr_eq(o.sums, wanted.sums, sizeof o.sums);
        cr_expect_arr_eq(o.d_hidden, wanted.d_hidden, N_ROWS * 8 * sizeof(float));
        outcome_release(&o);
    }
    outcome_release(&wanted);
    scene_destroy(&s);
}

Test(objective, teachers_that_do_not_fit_are_refused)
{
    const kd_model_config config = tiny_config(&kd_model_mixtral);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_model_config large = config;
    const kd_teacher_view too_large = {.config = &large};
    const kd_teacher_view headless = {.config = &config, .transport = HIDDEN};
    kd_objective *objective = NULL;
    tiny_objective says;
    tiny_objective_init(&says, 0.5, 1.0, 1.0);
    kd_fault_quiet(1);
    large.vocab_size += KD_VOCAB_PADDING_MAX;
    cr_expect_eq(
        kd_objective_create(model.be, &says.message, &config, &too_large, 1, N_ROWS, &objective),
        KD_ERR_INVALID);
    cr_expect_eq(
        kd_objective_create(model.be, &says.message, &config, &headless, 1, N_ROWS, &objective),
        KD_ERR_ARG);
    cr_expect_null(objective);
    tiny_model_destroy(&model);
}

Test(objective, teacher_refuses_tokens_that_it_does_not_know)
{
    tiny_objective objective;
    tiny_objective_init(&objective, 0.7, 0.3, 1.0);
    scene s = scene_create(&objective, LOGITS, 11);
    int32_t tokens[N_ROWS] = {0};
    const kd_batch batch = {
        .n_batch = N_BATCH, .n_tokens = N_TOKENS, .tokens = tokens, .first = 40};
    tokens[7] = 11;
    const kd_teacher_part all = {kd_objective_signals(s.objective), 0, ~UINT64_C(0)};
    kd_fault_quiet(1);
    cr_expect_eq(kd_teacher_fill(s.teacher, &batch, &all, s.message), KD_ERR_INVALID);
    EXPECT_FAULT("token 2 of sequence 41: found 11, expected 0 to 10");
    scene_destroy(&s);
}

Test(objective, a_teacher_needs_its_folder)
{
    tiny_model model = tiny_model_create(tiny_config(&kd_model_llama), KD_F32, KD_PARAMS_INFER);
    const kd_teacher_settings settings = {.max_batch = 1, .n_tokens = 4};
    kd_teacher *teacher = NULL;
    kd_fault_quiet(1);
    cr_expect_eq(kd_teacher_load(model.be, "/there/is/no/such/folder", &settings, &teacher),
                 KD_ERR_NOT_FOUND);
    cr_expect_null(teacher);
    kd_teacher_destroy(NULL);
    tiny_model_destroy(&model);
}
