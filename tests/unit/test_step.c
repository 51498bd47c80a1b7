#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

static double loss_of(tiny_train *t, const kd_batch *batch)
{
    kd_step_result result;
    cr_assert_eq(tiny_train_step(t, 0, batch, 1, &result), KD_OK);
    return result.loss;
}

/*
 * Central difference of the loss in one weight, extrapolated (Richardson): an error of h^4. The
 * steps are so small that no token's choice of experts flips, where the loss has no slope.
 */
static double slope_of(tiny_train *t, const kd_batch *batch, int64_t element)
{
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    double slopes[2];
    float value;
    kd_parameters_read(params, element, &value, 1);
    for (int i = 0; i < 2; i++) {
        const float h = i == 0 ? 0.00390625f : 0.001953125f;
        double losses[2];
        for (int side = 0; side < 2; side++) {
            const float moved = side == 0 ? value - h : value + h;
            kd_parameters_write(params, element, &moved, 1);
            losses[side] = loss_of(t, batch);
        }
        slopes[i] = (losses[1] - losses[0]) / (2.0 * (double)h);
    }
    kd_parameters_write(params, element, &value, 1);
    return (4.0 * slopes[1] - slopes[0]) / 3.0;
}

/* With a learning rate of 0 a step leaves the weights, and the gradient stays where it was summed.
 */
static void expect_true_gradient(const kd_model_type *type)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.training.learning_rate = 0.0;
    settings.objective.balance_weight.value = 0.2;
    settings.objective.z_weight.value = 0.1;
    tiny_train *t = tiny_train_create(type, KD_F32, &settings);
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    double difference = 0.0, size = 0.0;

    (void)loss_of(t, &whole);
    float *grad = tiny_values(t->be, params->grad);
    for (int e = 0; e < params->n_table; e++) {
        for (int64_t k = 0; k < 3 && k < params->table[e].n_elements; k++) {
            const int64_t i = params->table[e].offset + (k * 37 + 5) % params->table[e].n_elements;
            const double found = (double)grad[i], wanted = slope_of(t, &whole, i);
            difference += (found - wanted) * (found - wanted);
            size += wanted * wanted;
            cr_expect_float_eq(found, wanted, 2e-4 + 2e-2 * fabs(wanted), "%s of layer %lld: %g %g",
                               kd_parameter_role_name(params->table[e].role),
                               (long long)params->table[e].layer, found, wanted);
        }
    }
    cr_expect_lt(sqrt(difference / size), 2e-3);
    free(grad);
    tiny_train_destroy(t);
}

Test(step, gradient_of_the_weighted_sum_agrees_with_central_differences)
{
    expect_true_gradient(&kd_model_mixtral);
    expect_true_gradient(&kd_model_llama);
}

/* Every gradient that a step finds is spoilt before it. */
static void spoil_gradients(const tiny_train *t)
{
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    float *spoilt = malloc((size_t)params->n_elements * sizeof *spoilt);
    for (int64_t i = 0; i < params->n_elements; i++) {
        spoilt[i] = NAN;
    }
    for (int i = 0; i < params->n_table; i++) {
        t->be->ops->upload(t->be, kd_parameters_grad(params, &params->table[i]), spoilt);
    }
    free(spoilt);
}

static void expect_nothing_left(const kd_model_type *type, double kd, double hard)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.kd_weight.value = kd;
    settings.objective.hard_weight.value = hard;
    tiny_train *clean = tiny_train_create(type, KD_F32, &settings);
    tiny_train *spoilt = tiny_train_create(type, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result a, b;
    for (uint64_t step = 0; step < 2; step++) {
        cr_assert_eq(tiny_train_step(clean, step, &whole, 1, &a), KD_OK);
        spoil_gradients(spoilt);
        cr_assert_eq(tiny_train_step(spoilt, step, &whole, 1, &b), KD_OK);
        cr_expect_eq(a.gradient_norm, b.gradient_norm);
    }
    const kd_parameters *p = kd_trainer_parameters(clean->trainer);
    float *x = tiny_values(clean->be, p->master);
    float *y = tiny_values(spoilt->be, kd_trainer_parameters(spoilt->trainer)->master);
    cr_expect_arr_eq(x, y, (size_t)p->n_elements * sizeof *x);
    free(x);
    free(y);
    tiny_train_destroy(clean);
    tiny_train_destroy(spoilt);
}

Test(step, nothing_is_left_of_the_gradients_of_the_step_before)
{
    expect_nothing_left(&kd_model_mixtral, 0.7, 0.3);
    expect_nothing_left(&kd_model_qwen2_moe, 0.7, 0.3);
    expect_nothing_left(&kd_model_llama, 0.0, 0.3);
}

Test(step, losses_are_reported_raw_and_weighted)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.balance_weight.value = 0.01;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    cr_assert_eq(r.n_losses, 4);
    cr_expect_str_eq(r.losses[0].name, "kd");
    cr_expect_str_eq(r.losses[1].name, "hard");
    cr_expect_str_eq(r.losses[2].name, "balance");
    cr_expect_str_eq(r.losses[3].name, "z");
    cr_expect_not(r.losses[3].computed, "its weight is 0");
    double total = 0.0;
    for (int i = 0; i < 3; i++) {
        cr_expect(r.losses[i].computed);
        cr_expect_gt(r.losses[i].raw, 0.0);
        cr_expect_float_eq(r.losses[i].weighted, r.losses[i].raw * r.losses[i].weight, 1e-12);
        total += r.losses[i].weighted;
    }
    cr_expect_float_eq(r.loss, total, 1e-12);
    cr_expect_eq(r.n_tokens, TINY_ROWS - 2);
    cr_expect_gt(r.gradient_norm, 0.0);
    cr_expect_eq(r.learning_rate, 1e-2);
    cr_expect_eq(r.stall_s, 0.0);
    cr_expect_leq(r.losses[2].raw, 4.0); /* E * sum f_e P_e lies in (0, E] */
    cr_expect(r.updated);
    tiny_train_destroy(t);
}

static void expect_falling(kd_dtype compute)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, compute, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result first, last;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &first), KD_OK);
    for (uint64_t step = 1; step < 60; step++) {
        cr_assert_eq(tiny_train_step(t, step, &whole, 1, &last), KD_OK);
    }
    cr_expect_lt(last.loss, 0.7 * first.loss, "from %g to %g", first.loss, last.loss);
    cr_expect_lt(last.losses[0].raw, 0.7 * first.losses[0].raw);
    tiny_train_destroy(t);
}

Test(step, loss_falls)
{
    expect_falling(KD_F32);
    expect_falling(KD_BF16);
}

/* The routers' losses beside the others; balance, a product of means, keeps its micro-batch. */
Test(step, cutting_the_batch_changes_nothing_but_rounding)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_batch batch = tiny_batch_create(3);
    const int cuts[] = {1, 2, 4};
    kd_step_result results[3];
    float *weights[3];
    int64_t n = 0;

    settings.objective.z_weight.value = 0.1;
    for (int i = 0; i < 2 * TINY_TOKENS - 1; i++) { /* one quarter has none, another hardly any */
        batch.labels[i] = -100;
    }
    for (int i = 0; i < 3; i++) {
        kd_batch batches[TINY_BATCH];
        tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
        tiny_batch_cut(&batch, cuts[i], batches);
        for (uint64_t step = 0; step < 3; step++) {
            cr_assert_eq(tiny_train_step(t, step, batches, cuts[i], &results[i]), KD_OK);
        }
        weights[i] = tiny_train_weights(t);
        n = kd_trainer_parameters(t->trainer)->n_elements;
        tiny_train_destroy(t);
    }
    for (int i = 1; i < 3; i++) {
        cr_expect_float_eq(results[i].loss, results[0].loss, 1e-5 * results[0].loss);
        cr_expect_float_eq(results[i].gradient_norm, results[0].gradient_norm, 1e-4);
        cr_expect_eq(results[i].n_tokens, results[0].n_tokens);
        cr_expect_lt(tiny_nmse(weights[i], weights[0], n), 1e-9);
        free(weights[i]);
    }
    free(weights[0]);
}

/* The other rank of two, whose sums were taken before. */
typedef struct other_rank {
    float *grad;
    double sums[16];
    int64_t counts[4]; /* of both */
    bool records;
} other_rank;

static kd_status meet_f32(void *user, float *values, int64_t n)
{
    other_rank *other = user;
    if (other->records) {
        other->grad = malloc((size_t)n * sizeof *values);
        memcpy(other->grad, values, (size_t)n * sizeof *values);
        return KD_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] += other->grad[i];
    }
    return KD_OK;
}

static kd_status meet_f64(void *user, double *values, int64_t n)
{
    other_rank *other = user;
    cr_assert_leq(n, 16);
    for (int64_t i = 0; i < n; i++) {
        if (other->records) {
            other->sums[i] = values[i];
        } else {
            values[i] += other->sums[i];
        }
    }
    return KD_OK;
}

/* The counts of both are needed before either can form a gradient, so they are known beforehand. */
static kd_status meet_i64(void *user, int64_t *values, int64_t n)
{
    const other_rank *other = user;
    cr_assert_eq(n, 4);
    memcpy(values, other->counts, (size_t)n * sizeof *values);
    return KD_OK;
}

static kd_status
step_of_two(tiny_train *t, const kd_batch *batch, other_rank *other, kd_step_result *result_out)
{
    const kd_reduce reduce = {.user = other,
                              .rank = 0,
                              .n_ranks = 2,
                              .sum_f32 = meet_f32,
                              .sum_f64 = meet_f64,
                              .sum_i64 = meet_i64};
    const kd_step_work work = tiny_train_open(t, 0, batch, 1);
    return kd_trainer_step(t->trainer, &work, &t->channel, &reduce, result_out);
}

Test(step, two_ranks_give_what_one_gives)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_batch halves[2];
    const int64_t n_labelled = TINY_ROWS - 2;
    other_rank other = {
        .records = true,
        .counts = {n_labelled, n_labelled, TINY_ROWS, TINY_ROWS},
    };
    kd_step_result alone, together;
    tiny_train *one = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *first = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *second = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);

    tiny_batch_cut(&batch, 2, halves);
    cr_assert_eq(tiny_train_step(one, 0, &whole, 1, &alone), KD_OK);
    cr_assert_eq(step_of_two(second, &halves[1], &other, &together), KD_OK);
    other.records = false;
    cr_assert_eq(step_of_two(first, &halves[0], &other, &together), KD_OK);
    cr_expect_float_eq(together.loss, alone.loss, 1e-5 * alone.loss);
    cr_expect_float_eq(together.gradient_norm, alone.gradient_norm, 1e-4 * alone.gradient_norm);
    cr_expect_eq(together.n_tokens, alone.n_tokens);
    float *a = tiny_train_weights(one), *b = tiny_train_weights(first);
    cr_expect_lt(tiny_nmse(b, a, kd_trainer_parameters(one->trainer)->n_elements), 1e-9);
    free(a);
    free(b);
    free(other.grad);
    tiny_train_destroy(one);
    tiny_train_destroy(first);
    tiny_train_destroy(second);
}

/* Runs a step that must fail with `wanted` and a text that holds `words`, and changes no weight. */
static void
expect_refused(tiny_train *t, const kd_batch *batch, kd_status wanted, const char *words)
{
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    kd_step_result result = {.loss = -7.0};
    float *before = tiny_train_weights(t);
    kd_fault_quiet(1);
    cr_expect_eq(tiny_train_step(t, 41, batch, 1, &result), wanted);
    EXPECT_FAULT(words);
    cr_expect_eq(result.loss, -7.0);
    float *after = tiny_train_weights(t);
    cr_expect_arr_eq(before, after, bytes);
    free(before);
    free(after);
}

Test(step, tokens_and_labels_out_of_range_are_refused)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    batch.tokens[8] = 11;
    expect_refused(t, &whole, KD_ERR_INVALID, "sequence 1, token 2: found 11, expected 0 to 10");
    batch.tokens[8] = -1;
    expect_refused(t, &whole, KD_ERR_INVALID, "found -1");
    batch.tokens[8] = 0;
    batch.labels[23] = -99;
    expect_refused(t, &whole, KD_ERR_INVALID, "sequence 3, label 5: found -99");
    tiny_train_destroy(t);
}

Test(step, a_loss_that_is_not_finite_changes_nothing)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_parameter *norm = kd_parameters_find(params, KD_PARAM_FINAL_NORM, 0);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    const float bad = INFINITY;
    kd_parameters_write(params, norm->offset, &bad, 1);
    expect_refused(t, &whole, KD_ERR_INVALID, "step 41: loss kd is not a number, expected");
    tiny_train_destroy(t);
}

static kd_status lose_connection(void *user, uint64_t m, uint64_t groups, void *message)
{
    (void)groups;
    (void)user;
    (void)m;
    (void)message;
    return kd_fail(KD_ERR_IO, "the teacher is gone");
}

Test(step, a_fault_of_the_channel_ends_the_step)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    tiny_train_connect(t, lose_connection);
    expect_refused(t, &whole, KD_ERR_IO, "the teacher is gone");
    tiny_train_destroy(t);
}

/* Selective distillation: what has no weight in a step costs nothing in it, and comes back later. */
Test(step, a_weight_of_zero_at_a_step_neither_computes_nor_sends)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    for (uint64_t step = 0; step < 5; step++) {
        const uint64_t moved = t->channel->bytes_moved, blocks = t->n_teacher_blocks;
        kd_step_result r;
        settings.objective.kd_weight.value = step == 2 ? 0.7 : 0.0;
        cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
        cr_assert_eq(tiny_train_step(t, step, &whole, 1, &r), KD_OK);
        cr_expect_eq(r.losses[0].computed, step == 2);
        cr_expect_eq(t->channel->bytes_moved > moved, step == 2);
        cr_expect_eq(t->n_teacher_blocks > blocks, step == 2);
    }
    cr_expect_eq(t->channel->messages_moved, 1);
    tiny_train_destroy(t);
}

/* The mixture of two teachers that are the same is that teacher. */
Test(step, a_list_of_teachers_gives_its_mixture)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *one = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *two = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    const kd_teacher_view views[] = {{.config = kd_teacher_config(two->teacher),
                                      .lm_head = kd_teacher_lm_head(two->teacher),
                                      .compute = two->teacher_be->compute},
                                     {.config = kd_teacher_config(two->teacher),
                                      .lm_head = kd_teacher_lm_head(two->teacher),
                                      .compute = two->teacher_be->compute}};
    const kd_reduce alone = kd_reduce_single();
    kd_step_result expected, r;
    cr_assert_eq(tiny_train_step(one, 0, &whole, 1, &expected), KD_OK);

    cr_assert_eq(kd_trainer_set_teachers(two->trainer, views, 2), KD_OK);
    const kd_step_work work = tiny_train_open(two, 0, &whole, 1);
    kd_channel *channels[] = {NULL, NULL};
    cr_assert_eq(kd_trainer_losses(two->trainer, &work, channels, &alone, &r), KD_OK);
    cr_expect_not(r.losses[0].computed);
    channels[1] = two->channel; /* the other one is silent */
    cr_assert_eq(kd_trainer_losses(two->trainer, &work, channels, &alone, &r), KD_OK);
    cr_expect(r.losses[0].computed);
    cr_expect_float_eq(r.losses[0].raw, expected.losses[0].raw, 1e-6);
    tiny_train_destroy(one);
    tiny_train_destroy(two);
}

Test(step, without_a_channel_kd_is_not_computed)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result r;
    kd_channel *channel = t->channel;
    t->channel = NULL;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    t->channel = channel;
    cr_expect_str_eq(r.losses[0].name, "kd");
    cr_expect_not(r.losses[0].computed);
    cr_expect_float_eq(r.loss, 0.3 * r.losses[1].raw, 1e-12);
    tiny_train_destroy(t);
}

/* Each is a value that the next step reads: nothing is built for it. */
Test(step, other_values_of_the_objective_need_nothing_new)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    const kd_signal_plan *signals = kd_trainer_signals(t->trainer);
    kd_step_result before, after, warm;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &before), KD_OK);
    const kd_ops *whole_table = t->be->ops;
    kd_ops table = *whole_table;
    table.alloc = NULL; /* whoever asks for memory crashes */
    t->be->ops = &table;

    settings.objective.kd_weight.value = 0.25;
    settings.objective.temperature.value = 5.0;
    settings.objective.z_weight.value = 0.1;
    cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
    kd_trainer_set_learning_rate(t->trainer, 3e-3);
    cr_assert_eq(tiny_train_step(t, 1, &whole, 1, &after), KD_OK);
    cr_expect_eq(before.learning_rate, 1e-2);
    cr_expect_eq(after.learning_rate, 3e-3);
    cr_expect_eq(kd_trainer_signals(t->trainer), signals);
    cr_expect_eq(after.losses[0].weight, 0.25);
    cr_expect_neq(after.losses[0].raw, before.losses[0].raw);
    cr_expect_not(before.losses[3].computed);
    cr_expect(after.losses[3].computed);

    settings.objective.kd_weight.value = 0.0;
    cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
    cr_assert_eq(tiny_train_step(t, 2, &whole, 1, &warm), KD_OK);
    cr_expect_not(warm.losses[0].computed);
    cr_expect_eq(kd_objective_readers(&settings.objective.message, 2), 0);
    t->be->ops = whole_table;
    tiny_train_destroy(t);
}

Test(step, other_teachers_keep_weights_and_moments)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    kd_model_config large = tiny_config(&kd_model_mixtral);
    const kd_teacher_view stranger = {.config = &large};
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    float *weights = tiny_train_weights(t);
    float *m = tiny_values(t->be, kd_trainer_optimizer(t->trainer)->moments[0].m);

    kd_fault_quiet(1);
    large.vocab_size += KD_VOCAB_PADDING_MAX;
    cr_expect_eq(kd_trainer_set_teachers(t->trainer, &stranger, 1), KD_ERR_INVALID);
    kd_fault_quiet(0);
    cr_expect_eq(kd_trainer_signals(t->trainer)->n_signals, 1);
    cr_assert_eq(kd_trainer_set_teachers(t->trainer, NULL, 0), KD_OK);
    cr_expect_eq(kd_trainer_signals(t->trainer)->n_signals, 0);
    float *weights_after = tiny_train_weights(t);
    float *m_after = tiny_values(t->be, kd_trainer_optimizer(t->trainer)->moments[0].m);
    cr_expect_arr_eq(weights, weights_after, bytes);
    cr_expect_arr_eq(m, m_after, bytes);

    cr_assert_eq(tiny_train_step(t, 1, &whole, 1, &r), KD_OK);
    cr_assert_eq(r.n_losses, 3);
    cr_expect_str_eq(r.losses[0].name, "hard");
    free(m_after);
    free(weights_after);
    free(m);
    free(weights);
    tiny_train_destroy(t);
}

/* Allocations of the back end that still succeed. */
static int n_allowed;
static void *(*true_alloc)(kd_backend *be, kd_memory kind, size_t size_bytes);

static void *limited_alloc(kd_backend *be, kd_memory kind, size_t size_bytes)
{
    if (n_allowed-- > 0) {
        return true_alloc(be, kind, size_bytes);
    }
    (void)kd_fail(KD_ERR_NOMEM, "no memory left for %zu bytes", size_bytes);
    return NULL;
}

Test(step, every_allocation_that_fails_is_reported)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    const kd_reduce alone = kd_reduce_single();
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    tiny_train stub = {.batches = &whole};
    const kd_source source = {.user = &stub, .next = tiny_train_next};
    const kd_step_work work = {.source = &source, .stride = 1, .n_batches = 1};
    const kd_trainer_settings trainer_settings = tiny_trainer_settings(&settings);
    kd_status st = KD_ERR_NOMEM;
    int n = 0;

    kd_fault_quiet(1);
    for (; st; n++) {
        tiny_model m = tiny_model_create(tiny_config(&kd_model_mixtral), KD_F32, KD_PARAMS_TRAIN);
        const kd_ops *whole_table = m.be->ops;
        kd_ops table = *whole_table;
        kd_trainer *trainer = NULL;
        kd_step_result result;
        true_alloc = table.alloc;
        table.alloc = limited_alloc;
        m.be->ops = &table;
        n_allowed = n;
        st = kd_trainer_create(m.params, &trainer_settings, NULL, 0, &trainer);
        cr_expect_eq(trainer == NULL, st != KD_OK);
        cr_expect(st == KD_OK || st == KD_ERR_NOMEM);
        if (!st) {
            n_allowed = 0; /* a step allocates nothing */
            cr_expect_eq(kd_trainer_step(trainer, &work, NULL, &alone, &result), KD_OK);
        }
        kd_trainer_destroy(trainer);
        m.be->ops = whole_table;
        kd_backend_destroy(m.be);
    }
    cr_expect_geq(n, 5); /* labels, objective, decoder, optimizer, and none */
}
