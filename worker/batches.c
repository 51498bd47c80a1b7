/*
 * batches.c - packing is the leader's and comes first; then each rank maps the same shards and reads by
 * numbers. What a job says of its data is put into the packer's words here and nowhere else.
 */
#include "worker/batches.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"

typedef struct shard_paths {
    char *folder, *train, *test; /* owned */
} shard_paths;

static void release_paths(shard_paths *paths)
{
    free(paths->test);
    free(paths->train);
    free(paths->folder);
}

static kd_status make_paths(const Kd__Job *job, shard_paths *paths_out)
{
    shard_paths paths = {.folder = kd_path_join(job->output, "data")};
    if (paths.folder != NULL) {
        paths.train = kd_path_join(paths.folder, "train.shard");
        paths.test = kd_path_join(paths.folder, "test.shard");
    }
    if (paths.train == NULL || paths.test == NULL) {
        release_paths(&paths);
        return KD_ERR_NOMEM;
    }
    *paths_out = paths;
    return KD_OK;
}

/* Borrows from the job and the paths. */
static kd_pack_settings pack_settings(const Kd__Job *job, const shard_paths *paths)
{
    const Kd__Data *data = job->data;
    return (kd_pack_settings){
        .files = (const char *const *)data->files,
        .n_files = data->n_files,
        .text_field = data->format == KD__DATA__FORMAT__JSONL ? data->text_field : NULL,
        .tokenizer = KD_TOKENIZER_BYTE,
        .sequence_length = data->sequence_length,
        .held_out = data->held_out,
        .split_seed = data->split_seed,
        .out_train_path = paths->train,
        .out_test_path = data->held_out > 0.0 ? paths->test : NULL,
    };
}

static kd_status pack_into(const Kd__Job *job, const shard_paths *paths)
{
    const kd_pack_settings settings = pack_settings(job, paths);
    kd_pack_result result;
    kd_status st = kd_folder_make(paths->folder);
    if (st || kd_pack_is_current(&settings)) {
        return st;
    }
    st = kd_pack(&settings, &result);
    if (!st) {
        kd_log(KD_LOG_INFO, "packed %llu tokens to train on and %llu to test with",
               (unsigned long long)result.n_train_tokens, (unsigned long long)result.n_test_tokens);
    }
    return st;
}

kd_status batches_pack(const Kd__Job *job)
{
    shard_paths paths = {0};
    kd_status st = make_paths(job, &paths);
    if (!st) {
        st = pack_into(job, &paths);
        release_paths(&paths);
    }
    return st;
}

kd_status batches_find_packed(const Kd__Job *job, bool *found_out, kd_pack_result *tokens_out)
{
    shard_paths paths = {0};
    const kd_status st = make_paths(job, &paths);
    if (!st) {
        const kd_pack_settings settings = pack_settings(job, &paths);
        *found_out = kd_pack_find(&settings, tokens_out);
        release_paths(&paths);
    }
    return st;
}

static kd_status open_train(const Kd__Job *job, const char *path, batches *b)
{
    kd_status st = kd_shard_open(&b->train, path);
    if (!st) {
        st = kd_order_shuffled(&b->train_order, &b->train, b->n_tokens, job->seed);
    }
    return st;
}

static kd_status open_test(const char *path, batches *b)
{
    kd_status st = kd_shard_open(&b->test, path);
    if (!st) {
        st = kd_order_held_out(&b->test_order, &b->test, b->n_tokens);
    }
    return st;
}

kd_status batches_open(const Kd__Job *job, batches *batches_out)
{
    shard_paths paths = {0};
    batches b = {
        .n_batch = job->training->micro_batch_size,
        .n_tokens = job->data->sequence_length,
        .has_test = job->data->held_out > 0.0,
        .n_test_max = job->evaluation->max_sequences,
    };
    kd_status st = make_paths(job, &paths);
    if (st) {
        return st;
    }
    st = open_train(job, paths.train, &b);
    if (!st && b.has_test) {
        st = open_test(paths.test, &b);
    }
    release_paths(&paths);
    if (st) {
        batches_close(&b);
        return st;
    }
    *batches_out = b;
    return KD_OK;
}

void batches_close(batches *b)
{
    kd_shard_close(&b->test);
    kd_shard_close(&b->train);
}

kd_status batches_check_model(const batches *b, const kd_model_config *config, const char *who)
{
    if (b->train.info.vocab_size <= config->vocab_size) {
        return KD_OK;
    }
    return kd_fail(KD_ERR_INVALID,
                   "%s: found a vocabulary of %lld tokens, expected at least the tokenizer's %u",
                   who, (long long)config->vocab_size, b->train.info.vocab_size);
}

uint64_t batches_hash(const batches *b)
{
    return kd_rng_u64(b->train.tokens_hash, b->test.tokens_hash);
}

kd_status batch_reader_open(const batches *b, batch_reader *reader_out)
{
    const size_t bytes = batch_reader_bytes(b->n_batch, b->n_tokens);
    batch_reader reader = {
        .batches = b,
        .tokens = malloc(bytes / 2),
        .labels = malloc(bytes / 2),
    };
    if (reader.tokens == NULL || reader.labels == NULL) {
        batch_reader_close(&reader);
        return kd_fail(KD_ERR_NOMEM, "no memory for the tokens of a micro-batch");
    }
    *reader_out = reader;
    return KD_OK;
}

size_t batch_reader_bytes(uint32_t n_batch, uint32_t n_tokens)
{
    return 2 * (size_t)n_batch * n_tokens * sizeof(int32_t);
}

void batch_reader_close(batch_reader *reader)
{
    free(reader->tokens);
    free(reader->labels);
    *reader = (batch_reader){0};
}

kd_status batch_reader_next(void *user, uint64_t m, kd_batch *batch_out)
{
    const batch_reader *reader = user;
    const batches *b = reader->batches;
    const uint64_t first = m * b->n_batch;
    kd_batch_read(&b->train, &b->train_order, first, b->n_batch, reader->tokens, reader->labels);
    *batch_out = (kd_batch){.n_batch = b->n_batch,
                            .n_tokens = b->n_tokens,
                            .tokens = reader->tokens,
                            .labels = reader->labels,
                            .first = first};
    return KD_OK;
}

kd_sequences batches_held_out(batches *b)
{
    KD_CHECK(b->has_test);
    b->held_out = (kd_shard_sequences){&b->test, &b->test_order};
    kd_sequences sequences = kd_sequences_of_shard(&b->held_out);
    if (b->n_test_max > 0 && b->n_test_max < (uint64_t)sequences.n_sequences) {
        sequences.n_sequences = (int64_t)b->n_test_max;
    }
    return sequences;
}
