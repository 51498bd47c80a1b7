#include "tests/support/tiny_train.h"

#include <stdlib.h>

#include "train/trainer.h"

void tiny_settings_init(tiny_settings *settings)
{
    tiny_objective_init(&settings->objective, 0.7, 0.3, 2.0);
    kd__training__init(&settings->training);
    settings->training.has_learning_rate = settings->training.has_decay = 1;
    settings->training.learning_rate = 1e-2;
    settings->training.decay = KD__TRAINING__DECAY__CONSTANT;
}

kd_trainer_settings tiny_trainer_settings(const tiny_settings *settings)
{
    return (kd_trainer_settings){.objective = &settings->objective.message,
                                 .training = &settings->training,
                                 .max_batch = TINY_BATCH,
                                 .n_tokens = TINY_TOKENS};
}

kd_status tiny_train_next(void *user, uint64_t m, kd_batch *batch_out)
{
    const tiny_train *t = user;
    *batch_out = t->batches[m - t->first_m];
    return KD_OK;
}

static kd_status teach(void *user, uint64_t m, uint64_t groups, void *message)
{
    const tiny_train *t = user;
    const kd_teacher_part part = {kd_trainer_signals(t->trainer), 0, groups};
    return kd_teacher_fill(t->teacher, &t->batches[m - t->first_m], &part, message);
}

static void count_block(void *user)
{
    tiny_train *t = user;
    t->n_teacher_blocks++;
}

kd_step_work
tiny_train_open(tiny_train *t, uint64_t step, const kd_batch *batches, int64_t n_batches)
{
    const kd_signal_plan *plan = kd_trainer_signals(t->trainer);
    const uint64_t readers = kd_objective_readers(t->trainer->message, step);
    const uint64_t groups = plan->n_teachers > 0 ? kd_signal_plan_mask(plan, 0, readers) : 0;
    t->source = (kd_source){.user = t, .next = tiny_train_next};
    t->batches = batches;
    t->first_m = t->next_m;
    t->next_m += (uint64_t)n_batches;
    KD_CHECK(t->channel == NULL ||
             t->channel->ops->open_step(t->channel, t->first_m, t->next_m, groups) == KD_OK);
    return (kd_step_work){.step = step,
                          .source = &t->source,
                          .first_m = t->first_m,
                          .stride = 1,
                          .n_batches = n_batches};
}

void tiny_train_connect(tiny_train *t, kd_channel_produce produce)
{
    const kd_local_settings settings = {.plan = &kd_trainer_signals(t->trainer)->messages[0],
                                        .n_steps = TINY_STEPS_OPEN,
                                        .writer = t->teacher_be,
                                        .reader = t->be,
                                        .produce = produce,
                                        .user = t};
    kd_channel_destroy(t->channel);
    t->channel = NULL;
    KD_CHECK(kd_channel_create_local(&settings, &t->channel) == KD_OK);
}

tiny_train *
tiny_train_create(const kd_model_type *type, kd_dtype compute, const tiny_settings *settings)
{
    tiny_train *t = calloc(1, sizeof *t);
    const kd_teacher_settings teacher_settings = {
        .max_batch = TINY_BATCH, .n_tokens = TINY_TOKENS, .on_block = count_block, .user = t};
    tiny_model student = tiny_model_with_seed(tiny_config(type), compute, KD_PARAMS_TRAIN, 1);
    tiny_model teacher =
        tiny_model_with_seed(tiny_config(&kd_model_qwen3_moe), compute, KD_PARAMS_INFER, 2);

    KD_CHECK(t != NULL);
    tiny_settings_init(&t->settings);
    t->batch = tiny_batch_create(3);
    t->whole = tiny_batch_whole(&t->batch);
    const kd_trainer_settings trainer_settings =
        tiny_trainer_settings(settings != NULL ? settings : &t->settings);
    t->be = student.be;
    t->teacher_be = teacher.be;
    KD_CHECK(kd_teacher_create(teacher.params, &teacher_settings, &t->teacher) == KD_OK);
    const kd_teacher_view seen = {.config = kd_teacher_config(t->teacher),
                                  .lm_head = kd_teacher_lm_head(t->teacher),
                                  .compute = t->teacher_be->compute};
    KD_CHECK(kd_trainer_create(student.params, &trainer_settings, &seen, 1, &t->trainer) == KD_OK);
    tiny_train_connect(t, teach);
    return t;
}

void tiny_train_destroy(tiny_train *t)
{
    kd_channel_destroy(t->channel);
    kd_trainer_destroy(t->trainer);
    kd_teacher_destroy(t->teacher);
    kd_backend_destroy(t->be);
    kd_backend_destroy(t->teacher_be);
    free(t);
}

kd_status tiny_train_step(tiny_train *t,
                          uint64_t step,
                          const kd_batch *batches,
                          int64_t n_batches,
                          kd_step_result *result_out)
{
    const kd_step_work work = tiny_train_open(t, step, batches, n_batches);
    const kd_reduce alone = kd_reduce_single();
    return kd_trainer_step(t->trainer, &work, &t->channel, &alone, result_out);
}

tiny_batch tiny_batch_create(uint64_t seed)
{
    tiny_batch b;
    tiny_tokens(b.tokens, TINY_ROWS, 11, seed);
    tiny_tokens(b.labels, TINY_ROWS, 11, seed + 1000);
    b.labels[seed % TINY_ROWS] = -100;
    b.labels[(seed + 7) % TINY_ROWS] = -100;
    return b;
}

kd_batch tiny_batch_whole(const tiny_batch *batch)
{
    return (kd_batch){.n_batch = TINY_BATCH,
                      .n_tokens = TINY_TOKENS,
                      .tokens = batch->tokens,
                      .labels = batch->labels};
}

float *tiny_train_weights(const tiny_train *t)
{
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    float *values = malloc((size_t)params->n_elements * sizeof *values);
    KD_CHECK(values != NULL);
    kd_parameters_read(params, 0, values, params->n_elements);
    return values;
}

void tiny_batch_cut(const tiny_batch *batch, int n, kd_batch *cut_out)
{
    const int64_t size = TINY_BATCH / n;
    for (int i = 0; i < n; i++) {
        cut_out[i] = (kd_batch){.n_batch = size,
                                .n_tokens = TINY_TOKENS,
                                .tokens = batch->tokens + i * size * TINY_TOKENS,
                                .labels = batch->labels + i * size * TINY_TOKENS};
    }
}
