/*
 * evaluate.h - how well a model predicts text it was not trained on.
 *
 * loss = mean cross-entropy over labelled rows in nats, perplexity = exp(loss), accuracy = share of
 * labelled rows whose largest logit is the label. Each is over all sequences of all ranks, so it
 * does not depend on how many ranks share the work but for rounding.
 *
 * Threads: that of the back end.
 */
#ifndef KD_TRAIN_EVALUATE_H
#define KD_TRAIN_EVALUATE_H

#include "data/order.h"
#include "data/shard.h"
#include "model/decoder.h"
#include "train/reduce.h"

/* Sequences by number: a held-out shard, or arrays. */
typedef struct kd_sequences {
    void *user;
    int64_t n_sequences;
    /* Writes the n * T tokens and labels of sequences [first, first + n); labels may be -100. */
    kd_status (
        *read)(void *user, int64_t first, int64_t n, int32_t *tokens_out, int32_t *labels_out);
} kd_sequences;

/* All sequences of a shard in an order (data/order.h); both, and this, outlive the kd_sequences. */
typedef struct kd_shard_sequences {
    const kd_shard *shard;
    const kd_order *order;
} kd_shard_sequences;

kd_sequences kd_sequences_of_shard(kd_shard_sequences *of);

typedef struct kd_evaluation {
    double loss; /* nats a token */
    double perplexity;
    double accuracy;
    uint64_t n_tokens;
} kd_evaluation;

typedef struct kd_evaluate_settings {
    int64_t max_batch; /* of the decoder */
    int64_t n_tokens;  /* of the decoder */
} kd_evaluate_settings;

/* What a call holds meanwhile: of the back end, and of the host. */
typedef struct kd_evaluate_memory {
    size_t held_bytes, host_bytes;
} kd_evaluate_memory;

kd_evaluate_memory kd_evaluate_memory_of(const kd_evaluate_settings *settings);

/*
 * Every student rank makes the same call: rank r takes batches r, r + n_ranks, ... Blocks;
 * allocates its buffers for the call. KD_ERR_INVALID: no sequences, no valid token, a token or
 * label out of range, or a loss that is not finite.
 */
KD_MUST_USE kd_status kd_evaluate(kd_parameters *params,
                                  kd_decoder *decoder,
                                  const kd_evaluate_settings *settings,
                                  const kd_sequences *sequences,
                                  const kd_reduce *reduce,
                                  kd_evaluation *evaluation_out);

#endif
