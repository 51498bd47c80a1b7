#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

/* Cuts a batch into n micro-batches of equal size. */
static void cut(const tiny_batch *batch, int n, kd_micro_batch *cut_out)
{
    const int64_t size = TINY_BATCH / n;
    for (int i = 0; i < n; i++) {
        cut_out[i] = (kd_micro_batch){.m = (uint64_t)i,
                                      .tokens = batch->tokens + i * size * TINY_TOKENS,
                                      .labels = batch->labels + i * size * TINY_TOKENS,
                                      .n_batch = size};
    }
}

static double loss_of(tiny_train *t, const kd_micro_batch *batch)
{
    kd_step_result result;
    cr_assert_eq(tiny_train_step(t, 0, batch, 1, &result), KD_OK);
    return result.loss;
}

/*
 * Central difference of the loss in one weight, extrapolated (Richardson): an error of h^4. The
 * steps are so small that no token's choice of experts flips, where the loss has no slope.
 */
static double slope_of(tiny_train *t, const kd_micro_batch *batch, int64_t element)
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
    kd_trainer_settings settings = tiny_train_settings();
    settings.learning_rate.peak = 0.0;
    settings.objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.2);
    settings.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.1);
    tiny_train *t = tiny_train_create(type, KD_F32, &settings);
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
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
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_KD] = kd_schedule_constant(kd);
    settings.objective.weights[KD_LOSS_HARD] = kd_schedule_constant(hard);
    tiny_train *clean = tiny_train_create(type, KD_F32, &settings);
    tiny_train *spoilt = tiny_train_create(type, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
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
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.01);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    cr_assert_eq(r.n_losses, 3);
    cr_expect_str_eq(r.losses[0].name, "kd");
    cr_expect_str_eq(r.losses[1].name, "hard");
    cr_expect_str_eq(r.losses[2].name, "balance");
    double total = 0.0;
    for (int i = 0; i < r.n_losses; i++) {
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
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, compute, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
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
    kd_trainer_settings settings = tiny_train_settings();
    tiny_batch batch = tiny_batch_create(3);
    const int cuts[] = {1, 2, 4};
    kd_step_result results[3];
    float *weights[3];
    int64_t n = 0;

    settings.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.1);
    for (int i = 0; i < 2 * TINY_TOKENS - 1; i++) { /* one quarter has none, another hardly any */
        batch.labels[i] = -100;
    }
    for (int i = 0; i < 3; i++) {
        kd_micro_batch batches[TINY_BATCH];
        tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
        cut(&batch, cuts[i], batches);
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
    double sums[KD_SUM_COUNT];
    int64_t counts[KD_LOSS_COUNT]; /* of both */
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
    cr_assert_eq(n, KD_SUM_COUNT);
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
    cr_assert_eq(n, KD_LOSS_COUNT);
    memcpy(values, other->counts, (size_t)n * sizeof *values);
    return KD_OK;
}

static kd_status step_of_two(tiny_train *t,
                             const kd_micro_batch *batch,
                             other_rank *other,
                             kd_step_result *result_out)
{
    const kd_reduce reduce = {.user = other,
                              .rank = 0,
                              .n_ranks = 2,
                              .sum_f32 = meet_f32,
                              .sum_f64 = meet_f64,
                              .sum_i64 = meet_i64};
    const kd_step_work work = {.batches = batch, .n_batches = 1};
    t->batches = batch;
    t->n_batches = 1;
    return kd_trainer_step(t->trainer, &work, t->channel, &reduce, result_out);
}

Test(step, two_ranks_give_what_one_gives)
{
    const kd_trainer_settings settings = tiny_train_settings();
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_micro_batch halves[2];
    const int64_t n_labelled = TINY_ROWS - 2;
    other_rank other = {
        .records = true,
        .counts = {n_labelled, n_labelled, TINY_ROWS, TINY_ROWS},
    };
    kd_step_result alone, together;
    tiny_train *one = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *first = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *second = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);

    cut(&batch, 2, halves);
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
expect_refused(tiny_train *t, const kd_micro_batch *batch, kd_status wanted, const char *words)
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
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    batch.tokens[8] = 11;
    expect_refused(t, &whole, KD_ERR_INVALID, "sequence 1, token 2: found 11, expected 0 to 10");
    batch.tokens[8] = -1;
    expect_refused(t, &whole, KD_ERR_INVALID, "found -1");
    batch.tokens[8] = 0;
    batch.labels[23] = -99;
    expect_refused(t, &whole, KD_ERR_INVALID, "sequence 3, label 5: found -99");
    tiny_train_destroy(t);
}

static tiny_batch without_a_label(void)
{
    tiny_batch batch = tiny_batch_create(3);
    for (int i = 0; i < TINY_ROWS; i++) {
        batch.labels[i] = -100;
    }
    return batch;
}

Test(step, a_batch_without_a_label_teaches_nothing)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    const tiny_batch batch = without_a_label();
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_step_result r;
    float *before = tiny_train_weights(t);
    cr_assert_eq(tiny_train_step(t, 41, &whole, 1, &r), KD_OK);
    cr_expect_not(r.updated);
    cr_expect_eq(r.loss, 0.0);
    cr_expect_eq(r.losses[0].raw, 0.0);
    cr_expect_eq(r.losses[1].raw, 0.0);
    cr_expect_eq(r.gradient_norm, 0.0);
    cr_expect_eq(r.n_tokens, 0);
    float *after = tiny_train_weights(t);
    cr_expect_arr_eq(before, after, bytes);
    free(before);
    free(after);
    tiny_train_destroy(t);
}

Test(step, the_routers_losses_need_no_label)
{
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.1);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = without_a_label();
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    cr_expect(r.updated);
    cr_expect_gt(r.losses[2].raw, 0.0);
    cr_expect_gt(r.gradient_norm, 0.0);
    tiny_train_destroy(t);
}

/* Raw balance and z, and the gradient's norm, with these labels and no other loss. */
static kd_step_result router_losses(const tiny_batch *batch)
{
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_KD] = kd_schedule_constant(0.0);
    settings.objective.weights[KD_LOSS_HARD] = kd_schedule_constant(0.0);
    settings.objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.2);
    settings.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.1);
    const kd_micro_batch whole = tiny_batch_whole(batch, 0);
    kd_step_result r;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    tiny_train_destroy(t);
    return r;
}

Test(step, the_routers_losses_are_means_over_all_rows)
{
    tiny_batch batch = tiny_batch_create(3);
    const kd_step_result some = router_losses(&batch);
    for (int i = 0; i < TINY_ROWS; i++) {
        batch.labels[i] = batch.labels[i] < 0 ? 0 : batch.labels[i];
    }
    const kd_step_result all = router_losses(&batch);
    cr_assert_eq(some.n_losses, 3);
    for (int i = 1; i < 3; i++) {
        cr_expect_eq(some.losses[i].raw, all.losses[i].raw, "%s: %g, not %g", some.losses[i].name,
                     some.losses[i].raw, all.losses[i].raw);
    }
    cr_expect_eq(some.gradient_norm, all.gradient_norm);
}

/* With no preference at all every expert has probability 1 / E: balance is 1, z is log(E)^2. */
Test(step, the_routers_losses_of_an_indifferent_router_are_known)
{
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.2);
    settings.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.1);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    const tiny_batch batch = tiny_batch_create(3);
    kd_micro_batch halves[2];
    kd_step_result r;

    for (int64_t layer = 0; layer < params->config.n_layers; layer++) {
        t->be->ops->zero(t->be, kd_parameters_weight(params, KD_PARAM_ROUTER, layer).value);
    }
    cut(&batch, 2, halves);
    cr_assert_eq(tiny_train_step(t, 0, halves, 2, &r), KD_OK);
    cr_assert_str_eq(r.losses[2].name, "balance");
    cr_expect_float_eq(r.losses[2].raw, 1.0, 1e-6);
    cr_expect_float_eq(r.losses[3].raw, log(4.0) * log(4.0), 1e-6);
    tiny_train_destroy(t);
}

/* Their weights are values of a step: nothing is computed, and nothing moves, while they are 0. */
Test(step, the_routers_losses_follow_a_schedule)
{
    kd_trainer_settings settings = tiny_train_settings();
    settings.objective.weights[KD_LOSS_KD] = kd_schedule_constant(0.0);
    settings.objective.weights[KD_LOSS_HARD] = kd_schedule_constant(0.0);
    settings.objective.weights[KD_LOSS_BALANCE] =
        (kd_schedule){.kind = KD_SCHEDULE_STEP, .n_points = 2, .points = {{0, 0.0}, {1, 0.5}}};
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_step_result off, on;

    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &off), KD_OK);
    cr_expect_not(off.updated);
    cr_expect_not(off.losses[1].computed);
    cr_expect_eq(off.gradient_norm, 0.0);
    cr_assert_eq(tiny_train_step(t, 1, &whole, 1, &on), KD_OK);
    cr_expect(on.updated && on.losses[1].computed);
    cr_expect_gt(on.losses[1].raw, 0.9);
    cr_expect_gt(on.gradient_norm, 0.0);
    tiny_train_destroy(t);
}

Test(step, without_labels_kd_runs_over_all_rows)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_batch batch = tiny_batch_create(3);
    kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_step_result bare, labelled;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    whole.labels = NULL;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &bare), KD_OK);
    tiny_train_destroy(t);
    for (int i = 0; i < TINY_ROWS; i++) {
        batch.labels[i] = 1;
    }
    whole.labels = batch.labels;
    t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &labelled), KD_OK);
    tiny_train_destroy(t);
    cr_expect_eq(bare.losses[0].raw, labelled.losses[0].raw);
    cr_expect_str_eq(bare.losses[1].name, "hard");
    cr_expect_not(bare.losses[1].computed);
    cr_expect(labelled.losses[1].computed);
    cr_expect_float_eq(bare.loss, 0.7 * bare.losses[0].raw, 1e-12);
    cr_expect_eq(bare.accuracy, 0.0);
    cr_expect_eq(bare.n_tokens, TINY_ROWS);
}

Test(step, micro_batches_have_labels_or_none_has)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    kd_micro_batch halves[2];
    kd_step_result r;
    cut(&batch, 2, halves);
    halves[1].labels = NULL;
    kd_fault_quiet(1);
    cr_expect_eq(tiny_train_step(t, 7, halves, 2, &r), KD_ERR_INVALID);
    EXPECT_FAULT("step 7: found micro-batches with and without labels");
    tiny_train_destroy(t);
}

Test(step, a_loss_that_is_not_finite_changes_nothing)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_parameter *norm = kd_parameters_find(params, KD_PARAM_FINAL_NORM, 0);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    const float bad = INFINITY;
    kd_parameters_write(params, norm->offset, &bad, 1);
    expect_refused(t, &whole, KD_ERR_INVALID, "step 41: loss kd is not a number, expected");
    tiny_train_destroy(t);
}

static kd_status lose_connection(void *user, uint64_t m, void *message)
{
    (void)user;
    (void)m;
    (void)message;
    return kd_fail(KD_ERR_IO, "the teacher is gone");
}

Test(step, a_fault_of_the_channel_ends_the_step)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    kd_channel_destroy(t->channel);
    cr_assert_eq(kd_channel_create_local(8, lose_connection, NULL, &t->channel), KD_OK);
    expect_refused(t, &whole, KD_ERR_IO, "the teacher is gone");
    tiny_train_destroy(t);
}

Test(step, without_a_channel_kd_is_not_computed)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    const kd_step_work work = {.batches = &whole, .n_batches = 1};
    const kd_reduce alone = kd_reduce_single();
    kd_step_result r;
    cr_assert_eq(kd_trainer_step(t->trainer, &work, NULL, &alone, &r), KD_OK);
    cr_expect_str_eq(r.losses[0].name, "kd");
    cr_expect_not(r.losses[0].computed);
    cr_expect_float_eq(r.loss, 0.3 * r.losses[1].raw, 1e-12);
    tiny_train_destroy(t);
}

Test(step, another_objective_keeps_weights_and_moments)
{
    const kd_trainer_settings settings = tiny_train_settings();
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    const kd_teacher_view nobody = {0};
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    kd_objective_settings objective = settings.objective;
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    float *weights = tiny_train_weights(t);
    float *m = tiny_values(t->be, kd_trainer_optimizer(t->trainer)->moments[0].m);

    kd_fault_quiet(1);
    objective.temperature = kd_schedule_constant(-1.0);
    cr_expect_eq(kd_trainer_set_objective(t->trainer, &objective, &nobody), KD_ERR_INVALID);
    kd_fault_quiet(0);
    cr_expect_eq(kd_trainer_signals(t->trainer)->n_signals, 1);
    objective.temperature = kd_schedule_constant(1.0);
    objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.01);
    cr_assert_eq(kd_trainer_set_objective(t->trainer, &objective, &nobody), KD_OK);
    cr_expect_eq(kd_trainer_signals(t->trainer)->n_signals, 0);
    float *weights_after = tiny_train_weights(t);
    float *m_after = tiny_values(t->be, kd_trainer_optimizer(t->trainer)->moments[0].m);
    cr_expect_arr_eq(weights, weights_after, bytes);
    cr_expect_arr_eq(m, m_after, bytes);

    cr_assert_eq(tiny_train_step(t, 1, &whole, 1, &r), KD_OK);
    cr_assert_eq(r.n_losses, 2);
    cr_expect_str_eq(r.losses[0].name, "hard");
    cr_expect_str_eq(r.losses[1].name, "balance");
    free(m_after);
    free(weights_after);
    free(m);
    free(weights);
    tiny_train_destroy(t);
}

/* Allocations of the back end that still succeed. */
static int n_allowed;
static void *(*true_alloc)(kd_backend *be, size_t size_bytes);

static void *limited_alloc(kd_backend *be, size_t size_bytes)
{
    if (n_allowed-- > 0) {
        return true_alloc(be, size_bytes);
    }
    (void)kd_fail(KD_ERR_NOMEM, "no memory left for %zu bytes", size_bytes);
    return NULL;
}

Test(step, every_allocation_that_fails_is_reported)
{
    const kd_trainer_settings settings = tiny_train_settings();
    const kd_teacher_view nobody = {0};
    const kd_reduce alone = kd_reduce_single();
    const tiny_batch batch = tiny_batch_create(3);
    const kd_micro_batch whole = tiny_batch_whole(&batch, 0);
    const kd_step_work work = {.batches = &whole, .n_batches = 1};
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
        st = kd_trainer_create(m.params, &settings, &nobody, &trainer);
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
