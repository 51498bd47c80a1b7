#include "tests/support/tiny_train.h"

#include <stdlib.h>

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
    *batch_out = t->batches[m];
    return KD_OK;
}

static kd_status teach(void *user, uint64_t m, void *message)
{
    const tiny_train *t = user;
    return kd_teacher_fill(t->teacher, &t->batches[m], kd_trainer_signals(t->trainer), message);
}

tiny_train *
tiny_train_create(const kd_model_type *type, kd_dtype compute, const tiny_settings *settings)
{
    tiny_train *t = calloc(1, sizeof *t);
    const kd_teacher_settings teacher_settings = {.max_batch = TINY_BATCH, .n_tokens = TINY_TOKENS};
    const kd_trainer_settings trainer_settings = tiny_trainer_settings(settings);
    tiny_model student = tiny_model_with_seed(tiny_config(type), compute, KD_PARAMS_TRAIN, 1);
    tiny_model teacher =
        tiny_model_with_seed(tiny_config(&kd_model_qwen3_moe), compute, KD_PARAMS_INFER, 2);

    KD_CHECK(t != NULL);
    t->be = student.be;
    t->teacher_be = teacher.be;
    KD_CHECK(kd_teacher_create(teacher.params, &teacher_settings, &t->teacher) == KD_OK);
    const kd_teacher_view seen = {.config = kd_teacher_config(t->teacher),
                                  .lm_head = kd_teacher_lm_head(t->teacher)};
    KD_CHECK(kd_trainer_create(student.params, &trainer_settings, &seen, 1, &t->trainer) == KD_OK);
    KD_CHECK(kd_channel_create_local(kd_trainer_signals(t->trainer)->message_bytes, teach, t,
                                     &t->channel) == KD_OK);
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
    const kd_source source = {.user = t, .next = tiny_train_next};
    const kd_step_work work = {
        .step = step, .source = &source, .stride = 1, .n_batches = n_batches, .groups = 1};
    const kd_reduce alone = kd_reduce_single();
    t->batches = batches;
    return kd_trainer_step(t->trainer, &work, t->channel, &alone, result_out);
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
