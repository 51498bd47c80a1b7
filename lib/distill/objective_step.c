/*
 * objective_step.c - an objective within a step: it goes through its losses at each moment of it, and what
 * runs in between is one operation and the taps. Which losses and signals there are is objective.c's.
 */
#include "distill/objective_state.h"

#include "base/log.h"

static void hear(void *user, const kd_tap *tap)
{
    kd_loss *loss = user;
    if (loss->computed && loss->count > 0) {
        loss->kind->at(loss, tap);
    }
}

int kd_objective_listeners(kd_objective *o, kd_listener *listeners_out)
{
    int n = 0;
    for (int i = 0; i < o->n_losses; i++) {
        if (o->losses[i].kind->at != NULL) {
            listeners_out[n++] = (kd_listener){
                .points = o->losses[i].kind->points, .user = &o->losses[i], .at = hear};
        }
    }
    return n;
}

void kd_objective_count(const kd_objective *o, const kd_batch *batch, int64_t *counts)
{
    for (int i = 0; i < o->n_losses; i++) {
        counts[i] += o->losses[i].kind->count(&o->losses[i], batch);
    }
}

static void begin_loss(kd_loss *loss, uint64_t step, int64_t count, bool labelled)
{
    const kd_loss_kind *kind = loss->kind;
    loss->weight = loss->message != NULL ? kd_loss_weight_at(loss->message, step) : 0.0;
    loss->count = count;
    loss->computed = (loss->weight > 0.0 || kind->is_free) && (labelled || !kind->needs_labels);
    if (kind->begin != NULL && loss->message != NULL) {
        kind->begin(loss, step);
    }
}

void kd_objective_begin(kd_objective *o, uint64_t step, const int64_t *counts, bool labelled)
{
    o->labelled = labelled;
    for (int i = 0; i < o->n_losses; i++) {
        begin_loss(&o->losses[i], step, counts[i], labelled);
    }
    o->context.be->ops->zero(o->context.be, o->sums);
}

static bool any_message(const kd_objective *o)
{
    for (int i = 0; i < o->context.n_teachers; i++) {
        if (o->context.messages[i] != NULL) {
            return true;
        }
    }
    return false;
}

/* Losses that read signals have none to read. */
static void rest_untaught(kd_objective *o)
{
    const bool taught = any_message(o);
    for (int i = 0; i < o->n_losses; i++) {
        kd_loss *loss = &o->losses[i];
        loss->computed = loss->computed && (taught || loss->kind->plan == NULL);
    }
}

static bool hears_chunks(const kd_loss *loss)
{
    return loss->kind->chunk != NULL && loss->computed && loss->count > 0;
}

/* Of all teachers, none where this loss reads none. */
static const kd_tensor *
logits_for(const kd_objective *o, const kd_loss *loss, const kd_vocab_chunk *chunk)
{
    for (int i = 0; i < o->context.n_teachers; i++) {
        o->chunk_logits[i] = kd_tensor_none();
    }
    for (int i = 0; i < chunk->n_teachers; i++) {
        const kd_signal *signal = o->context.seen_signals[i];
        if ((signal->readers >> loss->number & 1) != 0) {
            o->chunk_logits[signal->teacher] = chunk->teachers[i];
        }
    }
    return o->chunk_logits;
}

static void hear_chunk(void *user, const kd_vocab_chunk *chunk)
{
    kd_objective *o = user;
    kd_vocab_chunk seen = *chunk;
    seen.n_teachers = o->context.n_teachers;
    seen.labels = o->labelled ? chunk->labels : kd_tensor_none();
    for (int i = 0; i < o->n_losses; i++) {
        kd_loss *loss = &o->losses[i];
        if (hears_chunks(loss)) {
            seen.teachers = logits_for(o, loss, chunk);
            loss->kind->chunk(loss, &seen);
        }
    }
}

/* What each loss adds to the loss over the vocabulary, after the teachers' logits that they read. */
static void add_parts(kd_objective *o, int64_t n_rows, kd_vocab_loss *args)
{
    uint64_t readers = 0;
    for (int i = 0; i < o->n_losses; i++) {
        const kd_loss *loss = &o->losses[i];
        readers |= loss->computed && loss->weight > 0.0 ? UINT64_C(1) << loss->number : 0;
    }
    args->teachers = o->context.seen;
    args->n_teachers = kd_teacher_logits_give(&o->context, readers, n_rows);
    for (int i = 0; i < o->n_losses; i++) {
        kd_loss *loss = &o->losses[i];
        if (loss->computed && loss->kind->vocab != NULL) {
            loss->kind->vocab(loss, n_rows, args);
        }
        if (hears_chunks(loss)) {
            args->chunk = hear_chunk;
            args->user = o;
        }
    }
}

kd_tensor kd_objective_run(kd_objective *o,
                           const kd_decoder *decoder,
                           int64_t n_rows,
                           kd_tensor labels,
                           void *const *messages)
{
    kd_backend *be = o->context.be;
    KD_CHECK(n_rows > 0 && n_rows <= o->context.max_rows);
    KD_CHECK(!o->labelled || labels.data != NULL);
    const kd_weight lm_head = kd_decoder_lm_head_weight(decoder);
    kd_vocab_loss args = {
        .hidden = kd_decoder_hidden(decoder),
        .lm_head = lm_head.value,
        .labels = labels,
        .sums = kd_tensor_1d(o->sums.data, KD_F64, KD_VOCAB_SUMS),
        .d_hidden = kd_tensor_slice_rows(o->d_hidden, 0, n_rows),
        .d_lm_head = lm_head.grad,
        .accumulate = kd_weight_adds(lm_head),
        .n_vocab = o->context.n_vocab,
        .temperature = 1.0f,
    };
    o->context.messages = messages != NULL ? messages : o->no_messages;
    rest_untaught(o);
    add_parts(o, n_rows, &args);
    be->ops->vocab_loss(be, &args);
    return args.d_hidden;
}

bool kd_objective_teaches(const kd_objective *o)
{
    for (int i = 0; i < o->n_losses; i++) {
        if (kd_loss_scale(&o->losses[i]) > 0.0) {
            return true;
        }
    }
    return false;
}

double kd_objective_report(const kd_objective *o, const double *sums, kd_loss_value *values_out)
{
    double total = 0.0;
    for (int i = 0; i < o->n_losses; i++) {
        const kd_loss *loss = &o->losses[i];
        const bool has_mean = loss->computed && loss->count > 0;
        const double raw = has_mean ? loss->kind->mean(loss, sums) : 0.0;
        values_out[i] = (kd_loss_value){.name = loss->kind->name,
                                        .weight = loss->weight,
                                        .raw = raw,
                                        .weighted = raw * loss->weight,
                                        .computed = loss->computed};
        total += values_out[i].weighted;
    }
    return total;
}
