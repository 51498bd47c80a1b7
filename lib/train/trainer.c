/*
 * trainer.c - what a trainer is made of, and what may be put in its place between two steps.
 */
#include "train/trainer.h"

#include <stdlib.h>

#include "base/log.h"
#include "message/reflect.h"
#include "model/logits.h"
#include "train/tokens.h"

/* Between blocks of the model: messages under way move on. */
static void on_block(void *user)
{
    const kd_trainer *trainer = user;
    for (int i = 0; trainer->channels != NULL && i < trainer->n_teachers; i++) {
        kd_channel *channel = trainer->channels[i];
        if (channel != NULL) {
            channel->ops->progress(channel);
        }
    }
}

static kd_status make_decoder(kd_trainer *trainer)
{
    const kd_decoder_settings settings = {
        .max_batch = trainer->max_batch,
        .n_tokens = trainer->n_tokens,
        .train = true,
        .on_block = on_block,
        .user = trainer,
    };
    return kd_decoder_create(trainer->params, &settings, &trainer->decoder);
}

static kd_status make_labels(kd_trainer *trainer)
{
    kd_backend *be = trainer->params->be;
    const int64_t n = trainer->max_batch * trainer->n_tokens;
    const size_t size_bytes = kd_tensor_bytes(kd_tensor_1d(NULL, KD_I32, n));
    void *memory = NULL;
    const kd_status st = kd_backend_place(be, KD_MEMORY_DEVICE, size_bytes, &memory,
                                          "labels of %lld rows", (long long)n);
    if (st) {
        return st;
    }
    trainer->real = calloc((size_t)n, sizeof *trainer->real);
    if (trainer->real == NULL) {
        be->ops->free(be, memory);
        return kd_fail(KD_ERR_NOMEM, "no memory for the labels of a micro-batch");
    }
    trainer->labels = kd_tensor_1d(memory, KD_I32, n);
    return KD_OK;
}

static kd_status make_optimizer(kd_trainer *trainer)
{
    const kd_group model = {.name = "model",
                            .params = trainer->params,
                            .decay = true,
                            .exported = true,
                            .rate = 1.0,
                            .clip_norm = trainer->training->clip_norm};
    return kd_optimizer_create(&model, 1, trainer->training, &trainer->optimizer);
}

/* Puts a new objective in the place of the one there is; on a fault that one stays. */
static kd_status
make_objective(kd_trainer *trainer, const kd_teacher_view *teachers, int n_teachers)
{
    kd_listener listeners[KD_LOSSES_MAX];
    kd_objective *objective;
    kd_status st = kd_objective_create(trainer->params->be, trainer->message,
                                       &trainer->params->config, teachers, n_teachers,
                                       trainer->max_batch * trainer->n_tokens, &objective);
    if (st) {
        return st;
    }
    const int64_t n_sums = kd_tensor_elements(kd_objective_sums(objective));
    double *sums = calloc((size_t)n_sums, sizeof *sums);
    void **messages = calloc((size_t)n_teachers + 1, sizeof *messages);
    if (sums == NULL || messages == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for %lld sums", (long long)n_sums);
        goto err_sums;
    }
    st = kd_decoder_listen(trainer->decoder, listeners,
                           kd_objective_listeners(objective, listeners));
    if (st) {
        goto err_sums;
    }
    free(trainer->sums);
    free(trainer->messages);
    kd_objective_destroy(trainer->objective);
    trainer->sums = sums;
    trainer->messages = messages;
    trainer->n_teachers = n_teachers;
    trainer->objective = objective;
    return KD_OK;

err_sums:
    free(messages);
    free(sums);
    kd_objective_destroy(objective);
    return st;
}

/* Fills in what is owned, piece by piece; the caller destroys the trainer if it fails. */
static kd_status build(kd_trainer *trainer,
                       const kd_trainer_settings *settings,
                       const kd_teacher_view *teachers,
                       int n_teachers)
{
    trainer->message = (Kd__Objective *)kd_message_copy(&settings->objective->base);
    trainer->training = (Kd__Training *)kd_message_copy(&settings->training->base);
    if (trainer->message == NULL || trainer->training == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a trainer");
    }
    /* The decoder first: it refuses more rows than can be counted. */
    kd_status st = make_decoder(trainer);
    if (!st) {
        st = make_labels(trainer);
    }
    if (!st) {
        st = make_objective(trainer, teachers, n_teachers);
    }
    return st ? st : make_optimizer(trainer);
}

kd_status kd_trainer_create(kd_parameters *params,
                            const kd_trainer_settings *settings,
                            const kd_teacher_view *teachers,
                            int n_teachers,
                            kd_trainer **trainer_out)
{
    KD_CHECK(params->use == KD_PARAMS_TRAIN);
    KD_CHECK(settings->max_batch > 0 && settings->n_tokens > 0);
    kd_trainer *trainer = calloc(1, sizeof *trainer);
    if (trainer == NULL) {
        kd_parameters_destroy(params);
        return kd_fail(KD_ERR_NOMEM, "no memory for a trainer");
    }
    *trainer = (kd_trainer){
        .params = params,
        .max_batch = settings->max_batch,
        .n_tokens = settings->n_tokens,
        .clock = kd_step_clock_of(params->be),
    };
    const kd_status st = build(trainer, settings, teachers, n_teachers);
    if (st) {
        kd_trainer_destroy(trainer);
        return st;
    }
    *trainer_out = trainer;
    return KD_OK;
}

void kd_trainer_destroy(kd_trainer *trainer)
{
    if (trainer == NULL) {
        return;
    }
    kd_backend *be = trainer->params->be;
    kd_step_clock_release(&trainer->clock);
    kd_optimizer_destroy(trainer->optimizer);
    kd_decoder_destroy(trainer->decoder);
    kd_objective_destroy(trainer->objective);
    free(trainer->real);
    free(trainer->sums);
    free(trainer->messages);
    kd_message_destroy((ProtobufCMessage *)trainer->message);
    kd_message_destroy((ProtobufCMessage *)trainer->training);
    be->ops->free(be, trainer->labels.data);
    kd_parameters_destroy(trainer->params);
    free(trainer);
}

kd_status kd_trainer_set_objective(kd_trainer *trainer, const Kd__Objective *message)
{
    Kd__Objective *copy = (Kd__Objective *)kd_message_copy(&message->base);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    const kd_status st = kd_objective_set(trainer->objective, message);
    if (st) {
        kd_message_destroy(&copy->base);
        return st;
    }
    kd_message_destroy(&trainer->message->base);
    trainer->message = copy;
    return KD_OK;
}

void kd_trainer_set_learning_rate(kd_trainer *trainer, double learning_rate)
{
    trainer->training->has_learning_rate = 1;
    trainer->training->learning_rate = learning_rate;
}

kd_status
kd_trainer_set_teachers(kd_trainer *trainer, const kd_teacher_view *teachers, int n_teachers)
{
    return make_objective(trainer, teachers, n_teachers);
}

const kd_signal_plan *kd_trainer_signals(const kd_trainer *trainer)
{
    return kd_objective_signals(trainer->objective);
}

kd_parameters *kd_trainer_parameters(const kd_trainer *trainer)
{
    return trainer->params;
}

kd_optimizer *kd_trainer_optimizer(const kd_trainer *trainer)
{
    return trainer->optimizer;
}

kd_trainer_memory kd_trainer_memory_of(const kd_trainer *trainer)
{
    const size_t n_rows = (size_t)kd_tensor_elements(trainer->labels);
    return (kd_trainer_memory){
        .parameters = kd_parameters_memory_of(trainer->params),
        .moment_bytes = trainer->optimizer->slab_bytes,
        .activation_bytes = kd_decoder_bytes(trainer->decoder),
        .objective_bytes = kd_objective_bytes(trainer->objective),
        .label_bytes = kd_tensor_bytes(trainer->labels),
        .host_bytes = n_rows * sizeof *trainer->real,
    };
}

kd_status kd_trainer_logits(kd_trainer *trainer, const kd_batch *batch, float *logits_out)
{
    KD_CHECK(batch->n_batch > 0 && batch->n_batch <= trainer->max_batch);
    KD_CHECK(batch->n_tokens == trainer->n_tokens);
    const kd_status st = kd_tokens_check(batch->tokens, NULL, batch->n_batch, batch->n_tokens,
                                         trainer->params->config.vocab_size, batch->first);
    if (st) {
        return st;
    }
    kd_decoder_forward(trainer->decoder, batch);
    return kd_logits_download(trainer->params->be, kd_decoder_hidden(trainer->decoder),
                              kd_decoder_lm_head(trainer->decoder), logits_out);
}

kd_status kd_trainer_evaluate(kd_trainer *trainer,
                              const kd_sequences *sequences,
                              const kd_reduce *reduce,
                              kd_evaluation *evaluation_out)
{
    const kd_evaluate_settings settings = {.max_batch = trainer->max_batch,
                                           .n_tokens = trainer->n_tokens};
    return kd_evaluate(trainer->params, trainer->decoder, &settings, sequences, reduce,
                       evaluation_out);
}
