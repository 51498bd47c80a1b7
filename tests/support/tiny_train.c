#include "tests/support/tiny_train.h"

#include <stdlib.h>

kd_trainer_settings tiny_train_settings(void)
{
    kd_trainer_settings s = {
        .objective = kd_objective_defaults(),
        .optimizer = kd_optimizer_defaults(),
        .clip_norm = 1.0,
        .learning_rate = {.peak = 1e-2, .decay = KD_DECAY_CONSTANT},
        .max_batch = TINY_BATCH,
        .n_tokens = TINY_TOKENS,
    };
    s.objective.temperature = kd_schedule_constant(2.0);
    s.objective.weights[KD_LOSS_BALANCE] = kd_schedule_constant(0.0);
    s.objective.weights[KD_LOSS_Z] = kd_schedule_constant(0.0);
    return s;
}

static kd_status teach(void *user, uint64_t m, void *message)
{
    const tiny_train *t = user;
    for (int64_t i = 0; i < t->n_batches; i++) {
        if (t->batches[i].m == m) {
            return kd_teacher_fill(t->teacher, t->batches[i].tokens, t->batches[i].n_batch,
                                   kd_trainer_signals(t->trainer), message);
        }
    }
    KD_CHECK(!"a micro-batch that is not of this step");
    return KD_ERR_ARG;
}

tiny_train *
tiny_train_create(const kd_model_type *type, kd_dtype compute, const kd_trainer_settings *settings)
{
    tiny_train *t = calloc(1, sizeof *t);
    const kd_teacher_settings teacher_settings = {.max_batch = TINY_BATCH, .n_tokens = TINY_TOKENS};
    tiny_model student = tiny_model_with_seed(tiny_config(type), compute, KD_PARAMS_TRAIN, 1);
    tiny_model teacher =
        tiny_model_with_seed(tiny_config(&kd_model_qwen3_moe), compute, KD_PARAMS_INFER, 2);

    KD_CHECK(t != NULL);
    t->be = student.be;
    t->teacher_be = teacher.be;
    KD_CHECK(kd_teacher_create(teacher.params, &teacher_settings, &t->teacher) == KD_OK);
    const kd_teacher_view seen = {.config = kd_teacher_config(t->teacher),
                                  .lm_head = kd_teacher_lm_head(t->teacher)};
    KD_CHECK(kd_trainer_create(student.params, settings, &seen, &t->trainer) == KD_OK);
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
                          const kd_micro_batch *batches,
                          int64_t n_batches,
                          kd_step_result *result_out)
{
    const kd_step_work work = {.step = step, .batches = batches, .n_batches = n_batches};
    const kd_reduce alone = kd_reduce_single();
    t->batches = batches;
    t->n_batches = n_batches;
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

kd_micro_batch tiny_batch_whole(const tiny_batch *batch, uint64_t m)
{
    return (kd_micro_batch){
        .m = m, .tokens = batch->tokens, .labels = batch->labels, .n_batch = TINY_BATCH};
}

float *tiny_train_weights(const tiny_train *t)
{
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    float *values = malloc((size_t)params->n_elements * sizeof *values);
    KD_CHECK(values != NULL);
    kd_parameters_read(params, 0, values, params->n_elements);
    return values;
}
