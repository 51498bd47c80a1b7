/* What may change between two steps: weights and temperatures, teachers, and whether there is one. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

/* Selective distillation: what has no weight in a step costs nothing in it, and comes back later. */
Test(step, a_weight_of_zero_at_a_step_neither_computes_nor_sends)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    for (uint64_t step = 0; step < 5; step++) {
        const uint64_t moved = t->channel->bytes_moved, blocks = t->n_teacher_blocks;
        kd_step_result r;
        settings.objective.kd_weight.value = step == 2 ? 0.7 : 0.0;
        cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
        cr_assert_eq(tiny_train_step(t, step, &t->whole, 1, &r), KD_OK);
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
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    kd_step_result r;
    kd_channel *channel = t->channel;
    t->channel = NULL;
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &r), KD_OK);
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
    const kd_signal_plan *signals = kd_trainer_signals(t->trainer);
    kd_step_result before, after, warm;
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &before), KD_OK);
    const kd_ops *whole_table = t->be->ops;
    kd_ops table = *whole_table;
    table.alloc = NULL; /* whoever asks for memory crashes */
    t->be->ops = &table;

    settings.objective.kd_weight.value = 0.25;
    settings.objective.temperature.value = 5.0;
    settings.objective.z_weight.value = 0.1;
    cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
    kd_trainer_set_learning_rate(t->trainer, 3e-3);
    cr_assert_eq(tiny_train_step(t, 1, &t->whole, 1, &after), KD_OK);
    cr_expect_eq(before.learning_rate, 1e-2);
    cr_expect_eq(after.learning_rate, 3e-3);
    cr_expect_eq(kd_trainer_signals(t->trainer), signals);
    cr_expect_eq(after.losses[0].weight, 0.25);
    cr_expect_neq(after.losses[0].raw, before.losses[0].raw);
    cr_expect_not(before.losses[3].computed);
    cr_expect(after.losses[3].computed);

    settings.objective.kd_weight.value = 0.0;
    cr_assert_eq(kd_trainer_set_objective(t->trainer, &settings.objective.message), KD_OK);
    cr_assert_eq(tiny_train_step(t, 2, &t->whole, 1, &warm), KD_OK);
    cr_expect_not(warm.losses[0].computed);
    cr_expect_eq(kd_objective_readers(&settings.objective.message, 2), 0);
    t->be->ops = whole_table;
    tiny_train_destroy(t);
}

Test(step, other_teachers_keep_weights_and_moments)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    kd_model_config large = tiny_config(&kd_model_mixtral);
    const kd_teacher_view stranger = {.config = &large};
    kd_step_result r;
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &r), KD_OK);
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

    cr_assert_eq(tiny_train_step(t, 1, &t->whole, 1, &r), KD_OK);
    cr_assert_eq(r.n_losses, 3);
    cr_expect_str_eq(r.losses[0].name, "hard");
    free(m_after);
    free(weights_after);
    free(m);
    free(weights);
    tiny_train_destroy(t);
}
