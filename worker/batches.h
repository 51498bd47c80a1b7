/*
 * batches.h - the tokens of a job, by the global numbers of micro-batches and held-out sequences.
 *
 * Micro-batch m is the sequences [m * n_batch, (m + 1) * n_batch) of the job's order, on any rank.
 * The shards lie in OUTPUT/data: the leader packs them, then every rank maps them.
 */
#ifndef KD_WORKER_BATCHES_H
#define KD_WORKER_BATCHES_H

#include <stdbool.h>

#include "data/order.h"
#include "data/pack.h"
#include "proto/job.pb-c.h"
#include "shape/config.h"
#include "train/evaluate.h"
#include "train/source.h"

typedef struct batches {
    kd_shard train, test;
    kd_order train_order, test_order;
    kd_shard_sequences held_out; /* of test and test_order */
    bool has_test;               /* something was held out */
    uint32_t n_batch, n_tokens;
    uint64_t n_test_max; /* held-out sequences wanted; 0: all */
} batches;

/* Packs the shards unless they are current. Blocks on the disk, for as long as the text is. */
KD_MUST_USE kd_status batches_pack(const Kd__Job *job);

/* How many tokens the shards have, if they are there and current: read from their headers alone. */
KD_MUST_USE kd_status batches_find_packed(const Kd__Job *job,
                                          bool *found_out,
                                          kd_pack_result *tokens_out);

/* Verifies and maps the shards; the job is not kept. */
KD_MUST_USE kd_status batches_open(const Kd__Job *job, batches *batches_out);
void batches_close(batches *b);

/* KD_ERR_INVALID if the tokens are not of this model's vocabulary; `who` names the model. */
KD_MUST_USE kd_status batches_check_model(const batches *b,
                                          const kd_model_config *config,
                                          const char *who);

/* Of all tokens, those held out included, however their files are named or dated. */
uint64_t batches_hash(const batches *b);

/* The keyed order as a source of micro-batches: one of these for each who reads. */
typedef struct batch_reader {
    const batches *batches;   /* borrowed                     */
    int32_t *tokens, *labels; /* (n_batch, n_tokens); owned   */
} batch_reader;

KD_MUST_USE kd_status batch_reader_open(const batches *b, batch_reader *reader_out);
void batch_reader_close(batch_reader *reader); /* fine on {0} */
size_t batch_reader_bytes(uint32_t n_batch, uint32_t n_tokens);

/* next() of a kd_source whose user is the reader. */
KD_MUST_USE kd_status batch_reader_next(void *reader, uint64_t m, kd_batch *batch_out);

/*
 * The held-out split, or as large a sample of it as is wanted, the same for every model. Only if has_test; `b`
 * must outlive it.
 */
kd_sequences batches_held_out(batches *b);

#endif
