/*
 * evaluate.c - sums over batches, divided at the end, so that the size of a batch and the number of ranks
 * change rounding only. A decoder of its own, without gradients: that of training holds activations that a
 * step may still need.
 */
#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"
#include "train/tokens.h"

/* What one call holds. */
typedef struct evaluation {
    kd_parameters *params;
    kd_decoder *decoder;
    kd_evaluate_settings settings;
    int32_t *host_tokens, *host_labels; /* (max_batch * T) */
    void *slab;
    kd_tensor labels; /* (max_batch * T) i32      */
    kd_tensor sums;   /* (KD_VOCAB_SUMS) f64      */
} evaluation;

static kd_status
read_shard(void *user, int64_t first, int64_t n, int32_t *tokens_out, int32_t *labels_out)
{
    const kd_shard_sequences *of = user;
    kd_batch_read(of->shard, of->order, (uint64_t)first, (uint32_t)n, tokens_out, labels_out);
    return KD_OK;
}

kd_sequences kd_sequences_of_shard(kd_shard_sequences *of)
{
    return (kd_sequences){
        .user = of, .n_sequences = (int64_t)of->order->n_windows, .read = read_shard};
}

static void lay_out(evaluation *e, kd_arena *arena)
{
    e->labels = kd_tensor_carve_1d(arena, KD_I32, e->settings.max_batch * e->settings.n_tokens);
    e->sums = kd_tensor_carve_1d(arena, KD_F64, KD_VOCAB_SUMS);
}

static void release(evaluation *e)
{
    e->params->be->ops->free(e->params->be, e->slab);
    free(e->host_labels);
    free(e->host_tokens);
}

kd_evaluate_memory kd_evaluate_memory_of(const kd_evaluate_settings *settings)
{
    evaluation counted = {.settings = *settings};
    kd_arena arena = {0};
    lay_out(&counted, &arena);
    return (kd_evaluate_memory){
        .held_bytes = arena.used,
        .host_bytes = 2 * (size_t)(settings->max_batch * settings->n_tokens) * sizeof(int32_t),
    };
}

/* The caller releases, also what is there after a fault. */
static kd_status allocate(evaluation *e)
{
    const kd_evaluate_memory memory = kd_evaluate_memory_of(&e->settings);
    kd_arena arena;
    e->host_tokens = malloc(memory.host_bytes / 2);
    e->host_labels = malloc(memory.host_bytes / 2);
    if (e->host_tokens == NULL || e->host_labels == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to evaluate batches of %lld sequences",
                       (long long)e->settings.max_batch);
    }
    const kd_status st = kd_backend_place(e->params->be, KD_MEMORY_DEVICE, memory.held_bytes,
                                          &e->slab, "an evaluation of batches of %lld sequences",
                                          (long long)e->settings.max_batch);
    if (st) {
        return st;
    }
    kd_arena_init(&arena, e->slab, memory.held_bytes);
    lay_out(e, &arena); /* zeroed: so are the sums */
    return KD_OK;
}

/* Adds the batch read into the host arrays to the sums. */
static void add_batch(evaluation *e, int64_t n_sequences)
{
    kd_backend *be = e->params->be;
    const int64_t n_rows = n_sequences * e->settings.n_tokens;
    const kd_batch batch = {.n_batch = n_sequences,
                            .n_tokens = e->settings.n_tokens,
                            .tokens = e->host_tokens,
                            .labels = e->host_labels};

    be->ops->upload(be, kd_tensor_1d(e->labels.data, KD_I32, n_rows), e->host_labels);
    kd_decoder_forward(e->decoder, &batch);
    const kd_vocab_loss loss = {
        .hidden = kd_decoder_hidden(e->decoder),
        .lm_head = kd_decoder_lm_head(e->decoder),
        .labels = kd_tensor_1d(e->labels.data, KD_I32, n_rows),
        .sums = e->sums,
        .temperature = 1.0f,
    };
    be->ops->vocab_loss(be, &loss);
}

static kd_status
add_batches(evaluation *e, const kd_sequences *sequences, const kd_reduce *reduce, double *sums)
{
    kd_backend *be = e->params->be;
    const int64_t size = e->settings.max_batch;

    for (int64_t first = reduce->rank * size; first < sequences->n_sequences;
         first += reduce->n_ranks * size) {
        const int64_t left = sequences->n_sequences - first;
        const int64_t n = left < size ? left : size;
        kd_status st = sequences->read(sequences->user, first, n, e->host_tokens, e->host_labels);
        if (!st) {
            st = kd_tokens_check(e->host_tokens, e->host_labels, n, e->settings.n_tokens,
                                 e->params->config.vocab_size, (uint64_t)first);
        }
        if (!st) {
            add_batch(e, n);
        }
        if (st) {
            return st;
        }
    }
    be->ops->download(be, sums, e->sums);
    return kd_backend_wait(be);
}

kd_status kd_evaluate(kd_parameters *params,
                      kd_decoder *decoder,
                      const kd_evaluate_settings *settings,
                      const kd_sequences *sequences,
                      const kd_reduce *reduce,
                      kd_evaluation *evaluation_out)
{
    evaluation e = {.params = params, .decoder = decoder, .settings = *settings};
    double sums[KD_VOCAB_SUMS] = {0};

    if (sequences->n_sequences <= 0) {
        return kd_fail(KD_ERR_INVALID, "found no sequence to evaluate, expected at least one");
    }
    kd_status st = allocate(&e);
    if (!st) {
        st = add_batches(&e, sequences, reduce, sums);
    }
    release(&e);
    if (!st) {
        st = reduce->sum_f64(reduce->user, sums, KD_VOCAB_SUMS);
    }
    if (st) {
        return st;
    }
    const double n_tokens = sums[KD_VOCAB_SUM_ROWS];
    if (!(n_tokens > 0)) {
        return kd_fail(KD_ERR_INVALID, "found no label to evaluate, expected at least one");
    }
    const double loss = sums[KD_VOCAB_SUM_HARD] / n_tokens;
    if (!isfinite(loss)) {
        return kd_fail(KD_ERR_INVALID, "the loss on held-out text is %s, expected a number",
                       kd_text_not_finite(loss));
    }
    *evaluation_out = (kd_evaluation){.loss = loss,
                                      .perplexity = exp(loss),
                                      .accuracy = sums[KD_VOCAB_SUM_CORRECT] / n_tokens,
                                      .n_tokens = (uint64_t)n_tokens};
    return KD_OK;
}
