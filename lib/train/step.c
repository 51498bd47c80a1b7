#include "train/step.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"
#include "train/tokens.h"

struct kd_trainer {
    kd_parameters *params; /* owned, as are the next three */
    kd_optimizer *optimizer;
    kd_decoder *decoder;
    kd_objective *objective;
    kd_trainer_settings settings;
    kd_tensor labels;    /* (max_batch * T) i32 */
    kd_channel *channel; /* of the step under way, or NULL */
};

/* Between blocks of the model: messages under way move on. */
static void on_block(void *user)
{
    const kd_trainer *trainer = user;
    if (trainer->channel != NULL) {
        trainer->channel->ops->progress(trainer->channel);
    }
}

static kd_status make_decoder(kd_trainer *trainer)
{
    const kd_decoder_settings settings = {
        .max_batch = trainer->settings.max_batch,
        .n_tokens = trainer->settings.n_tokens,
        .train = true,
        .on_block = on_block,
        .user = trainer,
    };
    return kd_decoder_create(trainer->params, &settings, &trainer->decoder);
}

/* Its losses over layers listen to the decoder, in place of those before. */
static kd_status make_objective(const kd_trainer *trainer,
                                const kd_objective_settings *settings,
                                const kd_teacher_view *teacher,
                                kd_objective **objective_out)
{
    kd_objective *objective;
    kd_status st =
        kd_objective_create(trainer->params->be, settings, &trainer->params->config, teacher,
                            trainer->settings.max_batch * trainer->settings.n_tokens, &objective);
    if (st) {
        return st;
    }
    st = kd_objective_listen(objective, trainer->decoder);
    if (st) {
        kd_objective_destroy(objective);
        return st;
    }
    *objective_out = objective;
    return KD_OK;
}

static kd_status make_labels(kd_trainer *trainer)
{
    kd_backend *be = trainer->params->be;
    const int64_t n = trainer->settings.max_batch * trainer->settings.n_tokens;
    void *memory = be->ops->alloc(be, (size_t)n * kd_dtype_bytes(KD_I32));
    if (memory == NULL) {
        return KD_ERR_NOMEM;
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
                            .clip_norm = trainer->settings.clip_norm};
    return kd_optimizer_create(&model, 1, &trainer->settings.optimizer, &trainer->optimizer);
}

/* Fills in what is owned, piece by piece; the caller destroys the trainer if it fails. */
static kd_status build(kd_trainer *trainer, const kd_teacher_view *teacher)
{
    /* The decoder first: it refuses more rows than can be counted. */
    kd_status st = make_decoder(trainer);
    if (!st) {
        st = make_labels(trainer);
    }
    if (!st) {
        st = make_objective(trainer, &trainer->settings.objective, teacher, &trainer->objective);
    }
    if (!st) {
        st = make_optimizer(trainer);
    }
    return st;
}

kd_status kd_trainer_create(kd_parameters *params,
                            const kd_trainer_settings *settings,
                            const kd_teacher_view *teacher,
                            kd_trainer **trainer_out)
{
    KD_CHECK(params->use == KD_PARAMS_TRAIN);
    KD_CHECK(settings->max_batch > 0 && settings->n_tokens > 0);
    kd_trainer *trainer = calloc(1, sizeof *trainer);
    if (trainer == NULL) {
        kd_parameters_destroy(params);
        return kd_fail(KD_ERR_NOMEM, "no memory for a trainer");
    }
    *trainer = (kd_trainer){.params = params, .settings = *settings};
    const kd_status st = build(trainer, teacher);
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
    kd_optimizer_destroy(trainer->optimizer);
    kd_decoder_destroy(trainer->decoder);
    kd_objective_destroy(trainer->objective);
    be->ops->free(be, trainer->labels.data);
    kd_parameters_destroy(trainer->params);
    free(trainer);
}

kd_status kd_trainer_set_objective(kd_trainer *trainer,
                                   const kd_objective_settings *settings,
                                   const kd_teacher_view *teacher)
{
    kd_objective *objective;
    const kd_status st = make_objective(trainer, settings, teacher, &objective);
    if (st) {
        return st;
    }
    kd_objective_destroy(trainer->objective);
    trainer->objective = objective;
    trainer->settings.objective = *settings;
    return KD_OK;
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

static kd_status check_batch(const kd_trainer *trainer, const kd_micro_batch *batch)
{
    KD_CHECK(batch->n_batch > 0 && batch->n_batch <= trainer->settings.max_batch);
    return kd_tokens_check(batch->tokens, batch->labels, batch->n_batch, trainer->settings.n_tokens,
                           trainer->params->config.vocab_size);
}

/* The rows that each loss is a mean over: of all micro-batches, on all ranks. */
static kd_status count(const kd_trainer *trainer,
                       const kd_step_work *work,
                       const kd_reduce *reduce,
                       kd_step_counts *counts_out)
{
    KD_CHECK(work->n_batches > 0);
    kd_step_counts counts = {.labelled = work->batches[0].labels != NULL};
    for (int64_t i = 0; i < work->n_batches; i++) {
        const kd_micro_batch *batch = &work->batches[i];
        const kd_status st = check_batch(trainer, batch);
        if (st) {
            return st;
        }
        if ((batch->labels != NULL) != counts.labelled) {
            return kd_fail(KD_ERR_INVALID,
                           "step %" PRIu64 ": found micro-batches with and without labels, "
                           "expected labels in all of them or in none",
                           work->step);
        }
        kd_objective_count(trainer->objective, batch->labels,
                           batch->n_batch * trainer->settings.n_tokens, counts.rows);
    }
    const kd_status st = reduce->sum_i64(reduce->user, counts.rows, KD_LOSS_COUNT);
    if (!st) {
        *counts_out = counts;
    }
    return st;
}

/* Forward, objective and backward of one micro-batch; adds to gradients and sums. */
static kd_status run_batch(kd_trainer *trainer, const kd_micro_batch *batch)
{
    kd_backend *be = trainer->params->be;
    kd_channel *channel = trainer->channel;
    const kd_batch input = {.n_batch = batch->n_batch,
                            .n_tokens = trainer->settings.n_tokens,
                            .tokens = batch->tokens,
                            .labels = batch->labels};
    const int64_t n_rows = input.n_batch * input.n_tokens;
    kd_tensor labels = kd_tensor_none();
    void *message = NULL;

    if (batch->labels != NULL) {
        labels = kd_tensor_1d(trainer->labels.data, KD_I32, n_rows);
        be->ops->upload(be, labels, batch->labels);
    }
    kd_decoder_forward(trainer->decoder, &input);
    if (channel != NULL) { /* after the forward pass, so that the message had time to come */
        const kd_status st = channel->ops->receive(channel, batch->m, &message);
        if (st) {
            return st;
        }
    }
    const kd_tensor d_hidden =
        kd_objective_run(trainer->objective, trainer->decoder, labels, message);
    if (channel != NULL) { /* the queue must be past the message before it is given back */
        kd_status st = kd_backend_wait(be);
        if (!st) {
            st = channel->ops->release(channel, batch->m);
        }
        if (st) {
            return st;
        }
    }
    kd_decoder_backward(trainer->decoder, d_hidden);
    return KD_OK;
}

static kd_status run_batches(kd_trainer *trainer, const kd_step_work *work)
{
    for (int64_t i = 0; i < work->n_batches; i++) {
        const kd_status st = run_batch(trainer, &work->batches[i]);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

/*
 * Gradients and losses summed over all ranks, and each group's norm squared. Here is where the host
 * waits for the step.
 */
static kd_status gather(kd_trainer *trainer, const kd_reduce *reduce, double *sums, double *norm_sq)
{
    kd_backend *be = trainer->params->be;
    kd_optimizer_settle(trainer->optimizer);
    kd_status st = kd_optimizer_reduce(trainer->optimizer, reduce);
    if (st) {
        return st;
    }
    kd_optimizer_measure(trainer->optimizer);
    be->ops->download(be, sums, kd_objective_sums(trainer->objective));
    be->ops->download(be, norm_sq, trainer->optimizer->norm_sq);
    st = kd_backend_wait(be);
    if (!st) {
        st = reduce->sum_f64(reduce->user, sums, KD_SUM_COUNT);
    }
    return st;
}

/* Of the gradients of what is exported, together. */
static double exported_norm(const kd_optimizer *o, const double *norm_sq)
{
    double sum = 0.0;
    for (int g = 0; g < o->n_groups; g++) {
        sum += o->groups[g].exported ? norm_sq[g] : 0.0;
    }
    return sqrt(sum);
}

/* Only finite numbers may reach the weights. All ranks see the same sums, so all end alike. */
static kd_status check_finite(const kd_trainer *trainer,
                              uint64_t step,
                              const kd_step_result *result,
                              const double *norm_sq)
{
    const kd_optimizer *o = trainer->optimizer;

    for (int i = 0; i < result->n_losses; i++) {
        if (!isfinite(result->losses[i].raw)) {
            return kd_fail(KD_ERR_INVALID, "step %" PRIu64 ": loss %s is %s, expected a number",
                           step, result->losses[i].name, kd_text_not_finite(result->losses[i].raw));
        }
    }
    for (int g = 0; g < o->n_groups; g++) {
        if (!isfinite(norm_sq[g])) {
            return kd_fail(KD_ERR_INVALID,
                           "step %" PRIu64 ": the gradient's norm is %s in group %s, expected a "
                           "number",
                           step, kd_text_not_finite(norm_sq[g]), o->groups[g].name);
        }
    }
    return KD_OK;
}

static kd_status conclude(kd_trainer *trainer,
                          uint64_t step,
                          bool labelled,
                          const kd_reduce *reduce,
                          kd_step_result *result_out)
{
    double sums[KD_SUM_COUNT];
    double norm_sq[KD_GROUPS_MAX];
    kd_status st = gather(trainer, reduce, sums, norm_sq);
    if (st) {
        return st;
    }
    const double n_tokens = sums[KD_VOCAB_SUM_ROWS];
    kd_step_result result = {
        .gradient_norm = exported_norm(trainer->optimizer, norm_sq),
        .learning_rate = kd_learning_rate_at(&trainer->settings.learning_rate, step),
        .accuracy = labelled && n_tokens > 0.0 ? sums[KD_VOCAB_SUM_CORRECT] / n_tokens : 0.0,
        .n_tokens = (uint64_t)n_tokens,
        .updated = kd_objective_teaches(trainer->objective),
    };
    result.n_losses = kd_objective_report(trainer->objective, sums, result.losses, &result.loss);
    st = check_finite(trainer, step, &result, norm_sq);
    if (st) {
        return st;
    }
    if (result.updated) {
        kd_optimizer_apply(trainer->optimizer, result.learning_rate, step + 1);
    } else if (reduce->rank == 0) {
        kd_log(KD_LOG_WARN, "step %" PRIu64 ": no loss has both a weight and rows: no update",
               step);
    }
    *result_out = result;
    return KD_OK;
}

kd_status kd_trainer_step(kd_trainer *trainer,
                          const kd_step_work *work,
                          kd_channel *channel,
                          const kd_reduce *reduce,
                          kd_step_result *result_out)
{
    kd_step_counts counts;
    kd_status st = count(trainer, work, reduce, &counts);
    if (st) {
        return st;
    }
    kd_optimizer_clear(trainer->optimizer);
    kd_objective_begin(trainer->objective, work->step, &counts);

    /* Without signals no message is ever sent. */
    trainer->channel = kd_trainer_signals(trainer)->n_signals > 0 ? channel : NULL;
    const uint64_t stall_before_ns = channel != NULL ? channel->stall_ns : 0;
    st = run_batches(trainer, work);
    trainer->channel = NULL;
    if (!st) {
        st = conclude(trainer, work->step, counts.labelled, reduce, result_out);
    }
    if (!st && channel != NULL) {
        result_out->stall_s = (double)(channel->stall_ns - stall_before_ns) * 1e-9;
    }
    return st;
}

kd_status kd_trainer_evaluate(kd_trainer *trainer,
                              const kd_sequences *sequences,
                              const kd_reduce *reduce,
                              kd_evaluation *evaluation_out)
{
    const kd_evaluate_settings settings = {.max_batch = trainer->settings.max_batch,
                                           .n_tokens = trainer->settings.n_tokens};
    return kd_evaluate(trainer->params, trainer->decoder, &settings, sequences, reduce,
                       evaluation_out);
}
