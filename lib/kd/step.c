/*
 * step.c - what runs the student's model: a step or its losses alone, logits, an evaluation.
 */
#include <string.h>

#include "base/log.h"
#include "kd/student.h"
#include "train/tokens.h"

_Static_assert(KD_LOSSES_MAX <= KD_STUDENT_LOSSES_MAX, "kd_losses holds every loss");

static void report(const kd_step_result *result, kd_losses *losses_out)
{
    kd_losses losses = {.total = result->loss,
                        .gradient_norm = result->gradient_norm,
                        .learning_rate = result->learning_rate,
                        .n_tokens = result->n_tokens};
    for (int i = 0; i < result->n_losses; i++) {
        const kd_loss_value *value = &result->losses[i];
        if (value->computed) {
            losses.values[losses.n_values++] = (kd_student_loss){.name = value->name,
                                                                 .weight = value->weight,
                                                                 .raw = value->raw,
                                                                 .weighted = value->weighted};
        }
    }
    *losses_out = losses;
}

/* Sequences [first, first + micro_size) of a batch, or as many as there are. */
static kd_batch slice_of(const kd_student *s, const kd_batch *batch, int64_t first)
{
    const int64_t n = batch->n_batch - first;
    kd_batch slice = *batch;
    slice.n_batch = n < s->micro_size ? n : s->micro_size;
    slice.tokens += first * s->n_tokens;
    slice.labels = batch->labels != NULL ? batch->labels + first * s->n_tokens : NULL;
    slice.first += (uint64_t)first;
    return slice;
}

kd_batch kd_step_batch(const kd_student *s, uint64_t m)
{
    return slice_of(s, &s->batch, (int64_t)(m - s->first_m) * s->micro_size);
}

static kd_status give_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    *batch_out = kd_step_batch(user, m);
    return KD_OK;
}

static kd_status check_count(const kd_student *s, int64_t n_sequences)
{
    if (n_sequences < 1 || n_sequences > s->batch_size) {
        return kd_fail(KD_ERR_ARG,
                       "found %lld sequences, expected 1 to %lld, which is training.batch_size",
                       (long long)n_sequences, (long long)s->batch_size);
    }
    return KD_OK;
}

/* All of a step's tokens, before anything is made: who called knows them by their place in the call. */
static kd_status check_tokens(const kd_student *s, kd_logits_source from, const kd_batch *batch)
{
    const int64_t n_vocab = kd_trainer_parameters(s->trainer)->config.vocab_size;
    kd_status st =
        kd_tokens_check(batch->tokens, batch->labels, batch->n_batch, batch->n_tokens, n_vocab, 0);
    if (!st && from == KD_LOGITS_TEACHER) {
        st = kd_tokens_check(batch->tokens, NULL, batch->n_batch, batch->n_tokens,
                             kd_teacher_config(s->teacher)->vocab_size, 0);
    }
    return st;
}

/* kd_trainer_step() or kd_trainer_losses(). */
typedef kd_status (*step_function)(kd_trainer *,
                                   const kd_step_work *,
                                   kd_channel *const *,
                                   const kd_reduce *,
                                   kd_step_result *);

/* One of them with the logits of `from`; s->logits are set. */
static kd_status pass(kd_student *s,
                      kd_logits_source from,
                      const kd_batch *batch,
                      step_function step,
                      kd_losses *losses_out)
{
    const kd_source batches = {.user = s, .next = give_batch};
    const kd_reduce alone = kd_reduce_single();
    kd_step_work work = {
        .step = s->n_steps, .source = &batches, .first_m = s->n_messages, .stride = 1};
    kd_step_result result;

    kd_status st = check_count(s, batch->n_batch);
    if (!st) { /* a count that is no sane one is not calculated with */
        work.n_batches = (batch->n_batch + s->micro_size - 1) / s->micro_size;
        st = check_tokens(s, from, batch);
    }
    if (!st) {
        st = kd_teaching_begin(s, from, work.n_batches);
    }
    if (st) {
        return st;
    }
    s->batch = *batch;
    s->first_m = s->n_messages;
    s->n_messages += (uint64_t)work.n_batches;
    st = step(s->trainer, &work, &s->channel, &alone, &result);
    if (st) {
        kd_teaching_drop(s);
    } else {
        report(&result, losses_out);
    }
    return st;
}

static kd_batch
batch_of(const kd_student *s, const int32_t *tokens, const int32_t *labels, int64_t n_sequences)
{
    return (kd_batch){.n_batch = n_sequences,
                      .n_tokens = s->n_tokens,
                      .tokens = tokens,
                      .labels = labels,
                      .first = s->n_steps * (uint64_t)s->batch_size};
}

static kd_status
update(kd_student *s, kd_logits_source from, const kd_batch *batch, kd_losses *losses_out)
{
    const kd_status st = pass(s, from, batch, kd_trainer_step, losses_out);
    if (!st) {
        s->n_steps++;
    }
    return st;
}

static kd_status
only_losses(kd_student *s, kd_logits_source from, const kd_batch *batch, kd_losses *losses_out)
{
    return pass(s, from, batch, kd_trainer_losses, losses_out);
}

/* `run` over a batch with the student's own teacher, if it has one. */
static kd_status
run_taught(kd_student *student,
           const int32_t *tokens,
           const int32_t *labels,
           int64_t n_sequences,
           kd_status (*run)(kd_student *, kd_logits_source, const kd_batch *, kd_losses *),
           kd_losses *losses_out)
{
    const kd_status st = KD_GIVEN(student, tokens, losses_out);
    if (st) {
        return st;
    }
    const kd_batch batch = batch_of(student, tokens, labels, n_sequences);
    student->logits = NULL;
    return run(student, kd_teaching_own(student), &batch, losses_out);
}

kd_status kd_student_step(kd_student *student,
                          const int32_t *tokens,
                          const int32_t *labels,
                          int64_t n_sequences,
                          kd_losses *losses_out)
{
    return run_taught(student, tokens, labels, n_sequences, update, losses_out);
}

kd_status kd_student_losses(kd_student *student,
                            const int32_t *tokens,
                            const int32_t *labels,
                            int64_t n_sequences,
                            kd_losses *losses_out)
{
    return run_taught(student, tokens, labels, n_sequences, only_losses, losses_out);
}

kd_status kd_student_step_on_logits(kd_student *student,
                                    const int32_t *tokens,
                                    const int32_t *labels,
                                    const float *target_logits,
                                    int64_t n_sequences,
                                    kd_losses *losses_out)
{
    const kd_status st = KD_GIVEN(student, tokens, target_logits, losses_out);
    if (st) {
        return st;
    }
    const kd_batch batch = batch_of(student, tokens, labels, n_sequences);
    student->logits = target_logits;
    return update(student, student->distils ? KD_LOGITS_GIVEN : KD_LOGITS_NONE, &batch, losses_out);
}

/* The forward pass of the student, or of the teacher. All tokens are looked at before any logit. */
static kd_status write_logits(kd_student *s,
                              bool of_teacher,
                              const int32_t *tokens,
                              int64_t n_sequences,
                              float *logits_out)
{
    const kd_model_config *config =
        of_teacher ? kd_teacher_config(s->teacher) : &kd_trainer_parameters(s->trainer)->config;
    const kd_batch batch = batch_of(s, tokens, NULL, n_sequences);
    kd_status st = kd_tokens_check(tokens, NULL, n_sequences, s->n_tokens, config->vocab_size, 0);
    for (int64_t first = 0; first < n_sequences && !st; first += s->micro_size) {
        const kd_batch slice = slice_of(s, &batch, first);
        float *out = logits_out + first * s->n_tokens * config->vocab_size;
        st = of_teacher ? kd_teacher_logits(s->teacher, &slice, out)
                        : kd_trainer_logits(s->trainer, &slice, out);
    }
    return st;
}

static kd_status check_logits(const kd_student *student,
                              const int32_t *tokens,
                              int64_t n_sequences,
                              const float *logits_out)
{
    const kd_status st = KD_GIVEN(student, tokens, logits_out);
    return st ? st : check_count(student, n_sequences);
}

kd_status kd_student_logits(kd_student *student,
                            const int32_t *tokens,
                            int64_t n_sequences,
                            float *logits_out)
{
    const kd_status st = check_logits(student, tokens, n_sequences, logits_out);
    return st ? st : write_logits(student, false, tokens, n_sequences, logits_out);
}

kd_status kd_student_teacher_logits(kd_student *student,
                                    const int32_t *tokens,
                                    int64_t n_sequences,
                                    float *logits_out)
{
    const kd_status st = check_logits(student, tokens, n_sequences, logits_out);
    if (st) {
        return st;
    }
    if (student->teacher == NULL) {
        return kd_fail(KD_ERR_STATE, "found no teacher, expected one that is attached");
    }
    return write_logits(student, true, tokens, n_sequences, logits_out);
}

int64_t kd_student_vocab_size(const kd_student *s)
{
    return s != NULL ? kd_trainer_parameters(s->trainer)->config.vocab_size : 0;
}

int64_t kd_student_teacher_vocab_size(const kd_student *s)
{
    return s != NULL && s->teacher != NULL ? kd_teacher_config(s->teacher)->vocab_size : 0;
}

/* Sequences in arrays of the caller's. */
typedef struct arrays {
    const int32_t *tokens, *labels; /* (n_sequences, T) */
    int64_t n_tokens;               /* T */
} arrays;

static kd_status
read_arrays(void *user, int64_t first, int64_t n, int32_t *tokens_out, int32_t *labels_out)
{
    const arrays *a = user;
    const size_t bytes = (size_t)(n * a->n_tokens) * sizeof *tokens_out;
    memcpy(tokens_out, a->tokens + first * a->n_tokens, bytes);
    memcpy(labels_out, a->labels + first * a->n_tokens, bytes);
    return KD_OK;
}

kd_status kd_student_evaluate(kd_student *student,
                              const int32_t *tokens,
                              const int32_t *labels,
                              int64_t n_sequences,
                              kd_scores *scores_out)
{
    kd_status st = KD_GIVEN(student, tokens, labels, scores_out);
    if (st) {
        return st;
    }
    arrays from = {.tokens = tokens, .labels = labels, .n_tokens = student->n_tokens};
    const kd_sequences sequences = {.user = &from, .n_sequences = n_sequences, .read = read_arrays};
    const kd_reduce alone = kd_reduce_single();
    kd_evaluation evaluation;
    st = kd_trainer_evaluate(student->trainer, &sequences, &alone, &evaluation);
    if (st) {
        return st;
    }
    *scores_out = (kd_scores){.loss = evaluation.loss,
                              .perplexity = evaluation.perplexity,
                              .accuracy = evaluation.accuracy,
                              .n_tokens = evaluation.n_tokens};
    return KD_OK;
}
