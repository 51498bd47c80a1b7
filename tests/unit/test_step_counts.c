/* What each loss counts: labelled rows, rows without labels, padding, and what the router sees. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

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
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    const tiny_batch batch = without_a_label();
    const kd_batch whole = tiny_batch_whole(&batch);
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

/* Steps with these batches; how many lines of the log say that there was no update. */
static int lines_of_idle_steps(tiny_train *t, const kd_batch *const *batches, int n_steps)
{
    FILE *log = tmpfile();
    char line[512];
    int n_lines = 0;
    cr_assert_not_null(log);
    const int kept = dup(STDERR_FILENO);
    cr_assert_eq(dup2(fileno(log), STDERR_FILENO), STDERR_FILENO);
    for (int step = 0; step < n_steps; step++) {
        kd_step_result r;
        cr_assert_eq(tiny_train_step(t, (uint64_t)step, batches[step], 1, &r), KD_OK);
    }
    cr_assert_eq(dup2(kept, STDERR_FILENO), STDERR_FILENO);
    (void)close(kept);
    rewind(log);
    while (fgets(line, sizeof line, log) != NULL) {
        n_lines += strstr(line, "no update") != NULL;
    }
    (void)fclose(log);
    return n_lines;
}

Test(step, a_stretch_without_an_update_is_told_once)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const tiny_batch batch = without_a_label();
    const kd_batch idle = tiny_batch_whole(&batch);
    const kd_batch *const batches[] = {&idle, &idle, &idle, &t->whole, &idle, &idle};
    cr_expect_eq(lines_of_idle_steps(t, batches, 6), 2);
    tiny_train_destroy(t);
}

/* Whether the moments' bias is corrected by the updates made or by the steps. */
Test(step, a_step_that_made_no_update_is_none_to_the_next)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    tiny_train *plain = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const int64_t n = kd_trainer_parameters(t->trainer)->n_elements;
    const tiny_batch bare = without_a_label();
    const kd_batch nothing = tiny_batch_whole(&bare);
    kd_step_result r;
    for (uint64_t step = 0; step < 6; step++) {
        const bool updates = step == 2 || step == 5;
        cr_assert_eq(tiny_train_step(t, step, updates ? &t->whole : &nothing, 1, &r), KD_OK);
        cr_expect_eq(r.updated, updates);
    }
    for (uint64_t step = 0; step < 2; step++) {
        cr_assert_eq(tiny_train_step(plain, step, &plain->whole, 1, &r), KD_OK);
    }
    float *found = tiny_train_weights(t), *wanted = tiny_train_weights(plain);
    cr_expect_arr_eq(found, wanted, (size_t)n * sizeof *found);
    free(found);
    free(wanted);
    tiny_train_destroy(t);
    tiny_train_destroy(plain);
}

Test(step, the_routers_losses_need_no_label)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.z_weight.value = 0.1;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const tiny_batch batch = without_a_label();
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    cr_expect(r.updated);
    cr_expect_gt(r.losses[3].raw, 0.0);
    cr_expect_gt(r.gradient_norm, 0.0);
    tiny_train_destroy(t);
}

/* Raw balance and z, and the gradient's norm, with these labels and no other loss. */
static kd_step_result router_losses(const tiny_batch *batch)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.kd_weight.value = 0.0;
    settings.objective.hard_weight.value = 0.0;
    settings.objective.balance_weight.value = 0.2;
    settings.objective.z_weight.value = 0.1;
    const kd_batch whole = tiny_batch_whole(batch);
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
    cr_assert_eq(some.n_losses, 4);
    for (int i = 2; i < 4; i++) {
        cr_expect(some.losses[i].computed);
        cr_expect_eq(some.losses[i].raw, all.losses[i].raw, "%s: %g, not %g", some.losses[i].name,
                     some.losses[i].raw, all.losses[i].raw);
    }
    cr_expect_eq(some.gradient_norm, all.gradient_norm);
}

/*
 * With no preference at all every expert has probability 1 / E: balance is 1, z is log(E)^2, over the
 * rows that are not padding.
 */
Test(step, the_routers_losses_of_an_indifferent_router_are_known)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.balance_weight.value = 0.2;
    settings.objective.z_weight.value = 0.1;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    const tiny_batch batch = tiny_batch_create(3);
    const int32_t segments[TINY_ROWS / 2] = {0, 0, 0, 0, -1, -1, 1, 1, 2, -1, -1, -1};
    kd_batch halves[2];
    kd_step_result r;

    for (int64_t layer = 0; layer < params->config.n_layers; layer++) {
        t->be->ops->zero(t->be, kd_parameters_weight(params, KD_PARAM_ROUTER, layer).value);
    }
    tiny_batch_cut(&batch, 2, halves);
    halves[1].segments = segments;
    cr_assert_eq(tiny_train_step(t, 0, halves, 2, &r), KD_OK);
    cr_assert_str_eq(r.losses[2].name, "balance");
    cr_expect_float_eq(r.losses[2].raw, 1.0, 1e-6);
    cr_expect_float_eq(r.losses[3].raw, log(4.0) * log(4.0), 1e-6);
    tiny_train_destroy(t);
}

/* Their weights are values of a step: nothing is computed, and nothing moves, while they are 0. */
Test(step, the_routers_losses_follow_a_schedule)
{
    tiny_settings settings;
    tiny_points room;
    tiny_settings_init(&settings);
    settings.objective.kd_weight.value = 0.0;
    settings.objective.hard_weight.value = 0.0;
    settings.objective.balance_weight =
        tiny_schedule(&room, KD__SCHEDULE__KIND__STEP, 0, 0.0, 1, 0.5);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    kd_step_result off, on;

    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &off), KD_OK);
    cr_expect_not(off.updated);
    cr_expect_not(off.losses[2].computed);
    cr_expect_eq(off.gradient_norm, 0.0);
    cr_assert_eq(tiny_train_step(t, 1, &t->whole, 1, &on), KD_OK);
    cr_expect(on.updated && on.losses[2].computed);
    cr_expect_gt(on.losses[2].raw, 0.9);
    cr_expect_gt(on.gradient_norm, 0.0);
    tiny_train_destroy(t);
}

Test(step, without_labels_kd_runs_over_all_rows)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_batch batch = tiny_batch_create(3);
    kd_batch whole = tiny_batch_whole(&batch);
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

/* The raw kd of a batch whose sequences end in padding, with labels on all real rows or with none. */
static double kd_beside_padding(bool has_labels)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_batch batch = tiny_batch_create(3);
    kd_batch whole = tiny_batch_whole(&batch);
    int32_t segments[TINY_ROWS];
    kd_step_result r;
    for (int i = 0; i < TINY_ROWS; i++) {
        segments[i] = i % TINY_TOKENS < TINY_TOKENS - 2 ? 0 : -1;
        batch.labels[i] = segments[i] < 0 ? -100 : 1;
    }
    whole.segments = segments;
    if (!has_labels) {
        whole.labels = NULL;
    }
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    tiny_train_destroy(t);
    cr_expect(r.losses[0].computed);
    cr_expect_eq(r.losses[1].computed, has_labels);
    cr_expect_eq(r.n_tokens, TINY_BATCH * (TINY_TOKENS - 2));
    return r.losses[0].raw;
}

Test(step, padding_is_no_row_without_labels_either)
{
    cr_expect_eq(kd_beside_padding(false), kd_beside_padding(true));
}

Test(step, neither_labels_nor_a_teacher_teach_nothing)
{
    tiny_train *t = tiny_train_create(&kd_model_llama, KD_F32, NULL);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    const tiny_batch batch = tiny_batch_create(3);
    kd_batch whole = tiny_batch_whole(&batch);
    kd_channel *channel = t->channel;
    kd_step_result r;
    float *before = tiny_train_weights(t);
    whole.labels = NULL;
    t->channel = NULL;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &r), KD_OK);
    t->channel = channel;
    cr_expect_not(r.updated);
    cr_expect_eq(r.loss, 0.0);
    cr_expect_eq(r.gradient_norm, 0.0);
    float *after = tiny_train_weights(t);
    cr_expect_arr_eq(before, after, bytes);
    free(before);
    free(after);
    tiny_train_destroy(t);
}

Test(step, micro_batches_have_labels_or_none_has)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const tiny_batch batch = tiny_batch_create(3);
    kd_batch halves[2];
    kd_step_result r;
    tiny_batch_cut(&batch, 2, halves);
    halves[1].labels = NULL;
    kd_fault_quiet(1);
    cr_expect_eq(tiny_train_step(t, 7, halves, 2, &r), KD_ERR_INVALID);
    EXPECT_FAULT("step 8: found micro-batches with and without labels");
    tiny_train_destroy(t);
}
