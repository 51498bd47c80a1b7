/*
 * lineage.h - distilld.json in a model folder: how the model's text became tokens, and which part of the
 * text it never saw.
 *
 *   {"version": 1, "tokenizer": {"name": "byte", "hash": "0123456789abcdef"},
 *    "split": {"seed": "0123456789abcdef", "held_out": 0.05, "sequence_length": 256,
 *              "train": "0123456789abcdef", "test": "0123456789abcdef"}}
 *
 * A model can only be asked about text by the tokenizer it was trained with, and a test on text that
 * a teacher was trained on says too much: both are told by this file. Hashes are those of
 * kd_tokenizer.hash and of the shards' tokens (kd_shard.tokens_hash). Blocks on the disk.
 */
#ifndef KD_FORMAT_LINEAGE_H
#define KD_FORMAT_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define KD_LINEAGE_NAME                "distilld.json"
#define KD_LINEAGE_TOKENIZER_BYTES_MAX 64

typedef struct kd_lineage_split {
    uint64_t seed;
    double held_out; /* share of the text */
    uint64_t sequence_length;
    uint64_t train_hash;
    uint64_t test_hash; /* 0: nothing was held out */
} kd_lineage_split;

typedef struct kd_lineage {
    char tokenizer[KD_LINEAGE_TOKENIZER_BYTES_MAX]; /* its name */
    uint64_t tokenizer_hash;
    bool has_split; /* false: trained on nothing yet */
    kd_lineage_split split;
} kd_lineage;

/* Into an existing folder. */
KD_MUST_USE kd_status kd_lineage_write(const char *folder, const kd_lineage *lineage);

/*
 * *found_out: whether the folder has one; without, *lineage_out is untouched. KD_ERR_PROTO names the
 * field that is missing or wrong.
 */
KD_MUST_USE kd_status kd_lineage_read(const char *folder, kd_lineage *lineage_out, bool *found_out);

#endif
