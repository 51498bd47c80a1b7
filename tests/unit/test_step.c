/* What a step computes, reports and refuses. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

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
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &r), KD_OK);
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
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    t->batch.tokens[8] = 11;
    expect_refused(t, &t->whole, KD_ERR_INVALID, "sequence 1, token 2: found 11, expected 0 to 10");
    t->batch.tokens[8] = -1;
    expect_refused(t, &t->whole, KD_ERR_INVALID, "found -1");
    t->batch.tokens[8] = 0;
    t->batch.labels[23] = -99;
    expect_refused(t, &t->whole, KD_ERR_INVALID, "sequence 3, label 5: found -99");
    t->whole.first = 40; /* a later micro-batch: sequences are those of the order */
    expect_refused(t, &t->whole, KD_ERR_INVALID, "sequence 43, label 5: found -99");
    cr_expect_not(kd_trainer_has_diverged(t->trainer));
    tiny_train_destroy(t);
}

Test(step, a_loss_that_is_not_finite_changes_nothing)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_parameter *norm = kd_parameters_find(params, KD_PARAM_FINAL_NORM, 0);
    const float bad = INFINITY;
    kd_parameters_write(params, norm->offset, &bad, 1);
    expect_refused(t, &t->whole, KD_ERR_INVALID, "step 42: loss kd is not a number, expected");
    cr_expect(kd_trainer_has_diverged(t->trainer));
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
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    tiny_train_connect(t, lose_connection);
    expect_refused(t, &t->whole, KD_ERR_IO, "the teacher is gone");
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

/* What the memory would have been for stands in front. */
static void expect_named(char *names, size_t size)
{
    const char *end = strstr(kd_fault_text(), ": no memory left for ");
    cr_assert(end != NULL && end > kd_fault_text(), "%s", kd_fault_text());
    const size_t used = strlen(names);
    (void)snprintf(names + used, size - used, "%.*s; ", (int)(end - kd_fault_text()),
                   kd_fault_text());
}

Test(step, every_allocation_that_fails_is_reported)
{
    char names[1000] = "";
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
        if (st) {
            expect_named(names, sizeof names);
        }
        if (!st) {
            n_allowed = 0; /* a step allocates nothing */
            cr_expect_eq(kd_trainer_step(trainer, &work, NULL, &alone, &result), KD_OK);
        }
        kd_trainer_destroy(trainer);
        m.be->ops = whole_table;
        kd_backend_destroy(m.be);
    }
    cr_expect_geq(n, 5); /* labels, objective, decoder, optimizer, and none */
    cr_expect(strstr(names, "labels of ") != NULL && strstr(names, "losses of ") != NULL &&
                  strstr(names, "activations of 4 sequences of ") != NULL &&
                  strstr(names, "moments of ") != NULL,
              "%s", names);
}
