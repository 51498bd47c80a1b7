/*
 * pack.h - text to a train shard and a test shard.
 *
 * The token stream of all documents, in the order of the files, is cut into blocks of
 * KD_PACK_BLOCK_SEQUENCES * sequence_length tokens; the last may be shorter. Block i is held out if
 *
 *     kd_rng_uniform(kd_rng_key(split_seed, "split"), i) < held_out
 *
 * and each shard is the concatenation of its blocks, so no token is in both. Where that leaves a
 * shard without a single sequence (a short text), one whole block, chosen by split_seed, is given
 * to it.
 *
 * The shards are a function of the contents of the files, their order, split_seed, held_out and
 * sequence_length: the same bytes on any machine, at any time.
 *
 * Memory does not grow with the files. Everything blocks on the disk.
 *
 * Threads: any; one packing into a folder at a time.
 */
#ifndef KD_DATA_PACK_H
#define KD_DATA_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/corpus.h"
#include "data/tokenizer.h"

enum { KD_PACK_BLOCK_SEQUENCES = 16 };

typedef struct kd_pack_settings {
    const char *const *files; /* (n_files) at least one */
    size_t n_files;
    const char *text_field; /* of JSON lines; NULL: each file is one text */
    kd_tokenizer_kind tokenizer;
    uint32_t sequence_length; /* 1 to 2^24 */
    double held_out;          /* share of the blocks, in [0, 1); 0 writes no test shard */
    uint64_t split_seed;
    const char *out_train_path;
    const char *out_test_path; /* may be NULL if held_out is 0 */
} kd_pack_settings;

typedef struct kd_pack_result {
    uint64_t n_train_tokens;
    uint64_t n_test_tokens;
} kd_pack_result;

/*
 * Writes both shards, each whole or not at all; the train shard is the last, so that a crash or a
 * fault between them is seen by kd_pack_is_current(). KD_ERR_INVALID for settings out of range and
 * for too little text (the message says how many tokens were found and are needed);
 * kd_corpus_read() has the faults of the files. `result_out` may be NULL.
 */
KD_MUST_USE kd_status kd_pack(const kd_pack_settings *settings, kd_pack_result *result_out);

/*
 * Whether the shards are there and were made with these settings from files of these paths, sizes
 * and modification times. Reads no text and reports no fault: where it is false, kd_pack() says
 * what is wrong. Opening the shards still verifies them.
 */
bool kd_pack_is_current(const kd_pack_settings *settings);

/* The same; where it is true, also what the shards hold. */
bool kd_pack_find(const kd_pack_settings *settings, kd_pack_result *result_out);

#endif
