/*
 * step.c - one step: counts first, since each loss divides by its own as it is formed, then one pass
 * over the micro-batches, then the update. Everything is queued before the host waits, once: the back
 * end itself keeps numbers that are not finite from the weights. With more ranks the host waits for the
 * sums over them, and knows the losses before it queues the update.
 */
#include "train/step.h"

#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "base/text.h"
#include "train/tokens.h"
#include "train/trainer.h"

enum { BARE, LABELLED, BATCH_KINDS };

/* What a step is about to go through: on this rank, and once they are summed on all. */
typedef struct step_counts {
    int64_t sums[KD_LOSSES_MAX + BATCH_KINDS];
    int64_t *rows;    /* (n_losses) within the sums: that each loss counts            */
    int64_t *batches; /* (BATCH_KINDS) behind them: micro-batches without labels, and with */
} step_counts;

/* As people count, and metrics.csv: the first step is 1. */
static uint64_t number_of(uint64_t step)
{
    return step + 1;
}

static kd_status
next_batch(const kd_trainer *trainer, const kd_step_work *work, int64_t i, kd_batch *batch_out)
{
    const uint64_t m = work->first_m + (uint64_t)i * work->stride;
    const kd_status st = work->source->next(work->source->user, m, batch_out);
    if (!st) {
        KD_CHECK(batch_out->n_batch > 0 && batch_out->n_batch <= trainer->max_batch);
        KD_CHECK(batch_out->n_tokens == trainer->n_tokens);
    }
    return st;
}

static kd_status
count_batch(const kd_trainer *trainer, const kd_step_work *work, int64_t i, step_counts *counts)
{
    kd_batch batch;
    kd_status st = next_batch(trainer, work, i, &batch);
    if (!st) {
        st = kd_tokens_check(batch.tokens, batch.labels, batch.n_batch, batch.n_tokens,
                             trainer->params->config.vocab_size, batch.first);
    }
    if (!st) {
        counts->batches[batch.labels != NULL ? LABELLED : BARE]++;
        kd_objective_count(trainer->objective, &batch, counts->rows);
    }
    return st;
}

/*
 * The rows that each loss is a mean over: of all micro-batches, on all ranks. Whether these are of one kind
 * is judged by the sums, so that all ranks come to the same end.
 */
static kd_status count(const kd_trainer *trainer,
                       const kd_step_work *work,
                       const kd_reduce *reduce,
                       step_counts *counts)
{
    const int n_losses = kd_objective_n_losses(trainer->objective);
    KD_CHECK(work->n_batches > 0);
    counts->rows = counts->sums;
    counts->batches = counts->sums + n_losses;
    for (int64_t i = 0; i < work->n_batches; i++) {
        const kd_status st = count_batch(trainer, work, i, counts);
        if (st) {
            return st;
        }
    }
    const kd_status st = reduce->sum_i64(reduce->user, counts->sums, n_losses + BATCH_KINDS);
    if (!st && counts->batches[BARE] > 0 && counts->batches[LABELLED] > 0) {
        return kd_fail(KD_ERR_INVALID,
                       "step %" PRIu64 ": found micro-batches with and without labels, expected "
                       "labels in all of them or in none",
                       number_of(work->step));
    }
    return st;
}

/*
 * The rows that take part, in the back end's memory: none where the batch has neither labels nor
 * padding. Without labels a number that is no label's keeps padding out.
 */
static kd_tensor upload_labels(const kd_trainer *trainer, const kd_batch *batch)
{
    kd_backend *be = trainer->params->be;
    const int64_t n = batch->n_batch * batch->n_tokens;
    const kd_tensor labels = kd_tensor_1d(trainer->labels.data, KD_I32, n);
    if (batch->labels != NULL) {
        be->ops->upload(be, labels, batch->labels);
        return labels;
    }
    if (batch->segments == NULL) {
        return kd_tensor_none();
    }
    for (int64_t i = 0; i < n; i++) {
        trainer->real[i] = batch->segments[i] >= 0 ? 0 : KD_LABEL_IGNORED;
    }
    be->ops->upload(be, labels, trainer->real);
    return labels;
}

static kd_channel *channel_of(const kd_trainer *trainer, int i)
{
    return trainer->channels != NULL ? trainer->channels[i] : NULL;
}

/* The messages of m, NULL of teachers that give nothing in this step. */
static kd_status receive(kd_trainer *trainer, uint64_t m)
{
    kd_status st = KD_OK;
    for (int i = 0; !st && i < trainer->n_teachers; i++) {
        kd_channel *channel = channel_of(trainer, i);
        trainer->messages[i] = NULL;
        if (channel != NULL) {
            st = channel->ops->receive(channel, m, &trainer->messages[i]);
        }
        if (trainer->messages[i] != NULL) {
            kd_step_clock_close(&trainer->clock,
                                channel->is_local ? KD_STEP_TEACHER : KD_STEP_SIGNALS);
        }
    }
    return st;
}

/* Gives the messages of m back, to be used again once the queue is past all that reads them. */
static kd_status release(kd_trainer *trainer, uint64_t m)
{
    kd_backend *be = trainer->params->be;
    const kd_event done = be->ops->event_record(be);
    kd_status st = KD_OK;
    for (int i = 0; !st && i < trainer->n_teachers; i++) {
        kd_channel *channel = channel_of(trainer, i);
        if (trainer->messages[i] != NULL) {
            st = channel->ops->release(channel, m, done);
        }
    }
    return st;
}

/* Forward, objective and backward of one micro-batch; adds to gradients and sums. */
static kd_status run_batch(kd_trainer *trainer, const kd_batch *batch, uint64_t m)
{
    const kd_tensor labels = upload_labels(trainer, batch);

    kd_decoder_forward(trainer->decoder, batch);
    kd_step_clock_close(&trainer->clock, KD_STEP_FORWARD);
    kd_status st = receive(trainer, m); /* after the forward pass: messages had time to come */
    if (st) {
        return st;
    }
    const kd_tensor d_hidden =
        kd_objective_run(trainer->objective, trainer->decoder, batch->n_batch * batch->n_tokens,
                         labels, trainer->messages);
    kd_step_clock_close(&trainer->clock, KD_STEP_LOSS);
    kd_decoder_backward(trainer->decoder, d_hidden);
    kd_step_clock_close(&trainer->clock, KD_STEP_BACKWARD);
    return release(trainer, m);
}

static kd_status run_batches(kd_trainer *trainer, const kd_step_work *work)
{
    for (int64_t i = 0; i < work->n_batches; i++) {
        kd_batch batch;
        kd_status st = next_batch(trainer, work, i, &batch);
        if (!st) {
            st = run_batch(trainer, &batch, work->first_m + (uint64_t)i * work->stride);
        }
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

/*
 * Gradients and losses become the sums over all ranks, for which the host waits. One rank's losses are
 * downloaded later, with the norms.
 */
static kd_status reduce_step(kd_trainer *trainer, const kd_reduce *reduce)
{
    const kd_tensor sums = kd_objective_sums(trainer->objective);
    kd_backend *be = trainer->params->be;
    kd_optimizer_settle(trainer->optimizer);
    if (reduce->n_ranks == 1) {
        return KD_OK;
    }
    be->ops->download(be, trainer->sums, sums);
    kd_status st = kd_optimizer_reduce(trainer->optimizer, reduce);
    if (!st) {
        st = reduce->sum_f64(reduce->user, trainer->sums, kd_tensor_elements(sums));
    }
    kd_step_clock_close(&trainer->clock, KD_STEP_REDUCE);
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
static kd_status check_losses(kd_trainer *trainer, uint64_t step, const kd_step_result *result)
{
    if (trainer->sums[KD_VOCAB_SUM_EMPTY] > 0.0) { /* why kd is no number */
        return kd_fail(
            KD_ERR_INVALID,
            "step %" PRIu64 ": soft targets: found %.0f of %.0f rows where a teacher has "
            "no logit above -inf, expected one in each",
            number_of(step), trainer->sums[KD_VOCAB_SUM_EMPTY], trainer->sums[KD_VOCAB_SUM_ROWS]);
    }
    for (int i = 0; i < result->n_losses; i++) {
        if (!isfinite(result->losses[i].raw)) {
            trainer->has_diverged = true;
            return kd_fail(KD_ERR_INVALID, "step %" PRIu64 ": loss %s is %s, expected a number",
                           number_of(step), result->losses[i].name,
                           kd_text_not_finite(result->losses[i].raw));
        }
    }
    for (int64_t i = 0; i < kd_tensor_elements(kd_objective_sums(trainer->objective)); i++) {
        if (!isfinite(trainer->sums[i])) { /* the back end has updated nothing then */
            trainer->has_diverged = true;
            return kd_fail(KD_ERR_INVALID,
                           "step %" PRIu64 ": sum %" PRId64 " of the losses is %s, expected a "
                           "number",
                           number_of(step), i, kd_text_not_finite(trainer->sums[i]));
        }
    }
    return KD_OK;
}

static kd_status check_norms(kd_trainer *trainer, uint64_t step, const double *norm_sq)
{
    const kd_optimizer *o = trainer->optimizer;
    for (int g = 0; g < o->n_groups; g++) {
        if (!isfinite(norm_sq[g])) {
            trainer->has_diverged = true;
            return kd_fail(KD_ERR_INVALID,
                           "step %" PRIu64 ": the gradient's norm is %s in group %s, expected a "
                           "number",
                           number_of(step), kd_text_not_finite(norm_sq[g]), o->groups[g].name);
        }
    }
    return KD_OK;
}

/* What the sums of the losses say, once they are here. */
static kd_status report(kd_trainer *trainer, uint64_t step, bool labelled, kd_step_result *result)
{
    const double n_rows = trainer->sums[KD_VOCAB_SUM_ROWS];
    const double n_correct = trainer->sums[KD_VOCAB_SUM_CORRECT];
    result->accuracy = labelled && n_rows > 0.0 ? n_correct / n_rows : 0.0;
    result->n_tokens = (uint64_t)n_rows;
    result->n_losses = kd_objective_n_losses(trainer->objective);
    result->loss = kd_objective_report(trainer->objective, trainer->sums, result->losses);
    return check_losses(trainer, step, result);
}

/* Queues norms, clip and update, then waits for the whole step; for the losses too if `alone`. */
static kd_status
finish(kd_trainer *trainer, const kd_step_result *result, bool alone, double *norm_sq)
{
    kd_backend *be = trainer->params->be;
    const kd_tensor sums = kd_objective_sums(trainer->objective);

    kd_optimizer_measure(trainer->optimizer);
    if (result->updated) {
        kd_optimizer_apply(trainer->optimizer, result->learning_rate, sums);
    }
    kd_step_clock_close(&trainer->clock, KD_STEP_UPDATE);
    be->ops->download(be, norm_sq, trainer->optimizer->norm_sq);
    if (alone) {
        be->ops->download(be, trainer->sums, sums);
    }
    return kd_backend_wait(be);
}

static kd_status conclude(kd_trainer *trainer,
                          uint64_t step,
                          bool labelled,
                          const kd_reduce *reduce,
                          kd_step_result *result)
{
    const bool alone = reduce->n_ranks == 1;
    double norm_sq[KD_GROUPS_MAX];

    kd_status st = reduce_step(trainer, reduce);
    if (!st && !alone) { /* another rank's losses may be what is not finite */
        st = report(trainer, step, labelled, result);
    }
    if (!st) {
        st = finish(trainer, result, alone, norm_sq);
    }
    if (!st && alone) {
        st = report(trainer, step, labelled, result);
    }
    if (!st) {
        st = check_norms(trainer, step, norm_sq);
    }
    if (!st) {
        (void)kd_step_clock_read(&trainer->clock, &result->times); /* all is past: true */
        result->gradient_norm = exported_norm(trainer->optimizer, norm_sq);
    }
    if (!st && result->updated) {
        kd_optimizer_count_update(trainer->optimizer);
    }
    return st;
}

/* Of all channels of the step. */
static uint64_t stalls_ns(const kd_trainer *trainer)
{
    uint64_t sum = 0;
    for (int i = 0; i < trainer->n_teachers; i++) {
        const kd_channel *channel = channel_of(trainer, i);
        sum += channel != NULL ? channel->stall_ns : 0;
    }
    return sum;
}

/* At most: forward, loss, backward and each teacher's part of every micro-batch; count, reduce and update. */
static int64_t parts_of_step(const kd_trainer *trainer, const kd_step_work *work)
{
    return work->n_batches * (3 + trainer->n_teachers) + 3;
}

/* A step, which updates the weights only if it should. */
static kd_status pass(kd_trainer *trainer,
                      const kd_step_work *work,
                      kd_channel *const *channels,
                      const kd_reduce *reduce,
                      bool update,
                      kd_step_result *result_out)
{
    step_counts counts = {.sums = {0}};
    kd_step_clock_begin(&trainer->clock, parts_of_step(trainer, work));
    kd_status st = count(trainer, work, reduce, &counts);
    if (st) {
        return st;
    }
    kd_step_clock_close(&trainer->clock, KD_STEP_COUNT);
    const bool labelled = counts.batches[LABELLED] > 0;
    kd_optimizer_clear(trainer->optimizer);
    kd_objective_begin(trainer->objective, work->step, counts.rows, labelled);

    trainer->channels = channels;
    const uint64_t stall_before_ns = stalls_ns(trainer);
    st = run_batches(trainer, work);
    const uint64_t stall_ns = stalls_ns(trainer) - stall_before_ns;
    trainer->channels = NULL;
    kd_step_result result = {
        .learning_rate = kd_learning_rate_at(trainer->training, work->step),
        .updated = update && kd_objective_teaches(trainer->objective),
        .stall_s = (double)stall_ns * 1e-9,
        .times = kd_step_times_none(),
    };
    if (!st) {
        st = conclude(trainer, work->step, labelled, reduce, &result);
    }
    if (!st) {
        *result_out = result;
    }
    return st;
}

kd_status kd_trainer_step(kd_trainer *trainer,
                          const kd_step_work *work,
                          kd_channel *const *channels,
                          const kd_reduce *reduce,
                          kd_step_result *result_out)
{
    const kd_status st = pass(trainer, work, channels, reduce, true, result_out);
    if (st) {
        return st;
    }
    if (!result_out->updated && !trainer->idles && reduce->rank == 0) {
        kd_log(KD_LOG_WARN,
               "from step %" PRIu64 " on no loss has both a weight and rows: no update",
               number_of(work->step));
    }
    trainer->idles = !result_out->updated;
    return KD_OK;
}

bool kd_trainer_has_diverged(const kd_trainer *trainer)
{
    return trainer->has_diverged;
}

kd_status kd_trainer_losses(kd_trainer *trainer,
                            const kd_step_work *work,
                            kd_channel *const *channels,
                            const kd_reduce *reduce,
                            kd_step_result *result_out)
{
    return pass(trainer, work, channels, reduce, false, result_out);
}
