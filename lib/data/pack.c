/*
 * pack.c - blocks, not sequences, are drawn for the held-out split: neighbours repeat each other, and
 * single sequences would leak from one side into the other. The draw is by number of the block, so it does
 * not depend on who reads, and a text that has grown keeps its earlier blocks.
 */
#include "data/pack.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "data/shard_writer.h"

enum { PACK_RULES = 1, MAX_SEQUENCE_LENGTH = 1 << 24 }; /* other rules, other fingerprints */

#define NO_BLOCK UINT64_MAX

typedef enum split { TRAIN, TEST, SPLITS } split;

static const char *const split_names[SPLITS] = {[TRAIN] = "train", [TEST] = "test"};

/* Where the stream of tokens is cut, and what went where so far. */
typedef struct splitter {
    double held_out;
    uint64_t key;
    uint64_t block_tokens;
    uint64_t forced_block; /* goes to forced_split whatever was drawn; NO_BLOCK if none */
    split forced_split;
    uint64_t n_tokens; /* of the stream */
    uint64_t n_split[SPLITS];
    kd_shard_writer writers[SPLITS];
} splitter;

static split split_of_block(const splitter *s, uint64_t block)
{
    if (block == s->forced_block) {
        return s->forced_split;
    }
    return kd_rng_uniform(s->key, block) < s->held_out ? TEST : TRAIN;
}

/* A kd_token_sink. */
static kd_status split_tokens(void *context, const uint32_t *ids, size_t n)
{
    splitter *s = context;

    while (n > 0) {
        const split to = split_of_block(s, s->n_tokens / s->block_tokens);
        const uint64_t left = s->block_tokens - s->n_tokens % s->block_tokens;
        const size_t n_piece = n < left ? n : (size_t)left;
        kd_status st = kd_shard_writer_add(&s->writers[to], ids, n_piece);
        if (st) {
            return st;
        }
        s->n_tokens += n_piece;
        s->n_split[to] += n_piece;
        ids += n_piece;
        n -= n_piece;
    }
    return KD_OK;
}

/* NULL for a shard that is not wanted. */
static const char *path_of(const kd_pack_settings *settings, split which)
{
    if (which == TRAIN) {
        return settings->out_train_path;
    }
    return settings->held_out > 0 ? settings->out_test_path : NULL;
}

static void abandon_writers(const kd_pack_settings *settings, splitter *s)
{
    for (split which = TRAIN; which < SPLITS; which++) {
        if (path_of(settings, which) != NULL) {
            kd_shard_writer_abandon(&s->writers[which]);
        }
    }
}

static kd_status
open_writers(const kd_pack_settings *settings, const kd_shard_info *info, splitter *s)
{
    kd_status st = kd_shard_writer_open(&s->writers[TRAIN], settings->out_train_path, info,
                                        split_names[TRAIN]);
    if (st || settings->held_out <= 0) {
        return st;
    }
    st = kd_shard_writer_open(&s->writers[TEST], settings->out_test_path, info, split_names[TEST]);
    if (st) {
        kd_shard_writer_abandon(&s->writers[TRAIN]);
    }
    return st;
}

/* Reads everything once; on success the writers are open and hold all tokens. */
static kd_status read_and_split(const kd_pack_settings *settings,
                                const kd_corpus *corpus,
                                const kd_shard_info *info,
                                splitter *s)
{
    s->n_tokens = 0;
    memset(s->n_split, 0, sizeof s->n_split);
    kd_status st = open_writers(settings, info, s);
    if (st) {
        return st;
    }
    st = kd_corpus_read(corpus, split_tokens, s);
    if (st) {
        abandon_writers(settings, s);
    }
    return st;
}

/* A shard that has not one sequence, or SPLITS. */
static split starved_split(const kd_pack_settings *settings, const splitter *s)
{
    for (split which = TRAIN; which < SPLITS; which++) {
        if (path_of(settings, which) != NULL && s->n_split[which] <= settings->sequence_length) {
            return which;
        }
    }
    return SPLITS;
}

/* With this many tokens one whole block, and a sequence beside it, are there for the two shards. */
static uint64_t least_tokens(const kd_pack_settings *settings, const splitter *s)
{
    const uint64_t sequence = (uint64_t)settings->sequence_length + 1;
    return settings->held_out > 0 ? s->block_tokens + sequence : sequence;
}

/* Gives one whole block to the shard that got too little; false if the text is too short. */
static bool force_block(const kd_pack_settings *settings, split starved, splitter *s)
{
    if (settings->held_out <= 0 || s->n_tokens < least_tokens(settings, s)) {
        return false;
    }
    s->forced_block = kd_rng_u64(s->key, NO_BLOCK) % (s->n_tokens / s->block_tokens);
    s->forced_split = starved;
    return true;
}

static kd_status too_little(const kd_pack_settings *settings, const splitter *s)
{
    return kd_fail(KD_ERR_INVALID,
                   "too little text: found %" PRIu64 " tokens, needed at least %" PRIu64
                   " for %s of %u tokens",
                   s->n_tokens, least_tokens(settings, s),
                   settings->held_out > 0 ? "a train and a test shard with sequences"
                                          : "a sequence",
                   settings->sequence_length);
}

/* A starved shard means the whole text is read again: that is rare, and the text then short. */
static kd_status split_corpus(const kd_pack_settings *settings,
                              const kd_corpus *corpus,
                              const kd_shard_info *info,
                              splitter *s)
{
    kd_status st = read_and_split(settings, corpus, info, s);
    if (st) {
        return st;
    }
    const split starved = starved_split(settings, s);
    if (starved == SPLITS) {
        return KD_OK;
    }
    abandon_writers(settings, s);
    if (!force_block(settings, starved, s)) {
        return too_little(settings, s);
    }
    st = read_and_split(settings, corpus, info, s);
    if (st) {
        return st;
    }
    if (starved_split(settings, s) != SPLITS) { /* only if a file shrank meanwhile */
        abandon_writers(settings, s);
        return too_little(settings, s);
    }
    return KD_OK;
}

static kd_status commit_writers(const kd_pack_settings *settings, splitter *s)
{
    if (settings->held_out > 0) {
        kd_status st = kd_shard_writer_commit(&s->writers[TEST]);
        if (st) {
            kd_shard_writer_abandon(&s->writers[TRAIN]);
            return st;
        }
    }
    return kd_shard_writer_commit(&s->writers[TRAIN]);
}

static kd_status check_settings(const kd_pack_settings *settings)
{
    if (settings->n_files == 0) {
        return kd_fail(KD_ERR_INVALID, "there are no files to pack");
    }
    if (settings->sequence_length == 0 || settings->sequence_length > MAX_SEQUENCE_LENGTH) {
        return kd_fail(KD_ERR_INVALID, "sequence length: found %u, expected 1 to %d",
                       settings->sequence_length, MAX_SEQUENCE_LENGTH);
    }
    if (!(settings->held_out >= 0 && settings->held_out < 1)) {
        return kd_fail(KD_ERR_INVALID,
                       "held-out share: found %g, expected 0 or more and less than 1",
                       settings->held_out);
    }
    KD_CHECK(settings->out_train_path != NULL);
    KD_CHECK(settings->out_test_path != NULL || settings->held_out <= 0);
    return KD_OK;
}

/* One line of the fingerprint's text; 0 or errno. */
static int add_file(kd_text *text, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        return errno;
    }
    kd_text_printf(text, "%zu:%s %jd %jd.%09ld\n", strlen(path), path, (intmax_t)info.st_size,
                   (intmax_t)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    return 0;
}

/*
 * Hash of a text that says all that the shards depend on. *bad_file_out is the file that could not
 * be looked at, with errno; NULL without memory.
 */
static bool fingerprint(const kd_pack_settings *settings,
                        const kd_tokenizer *tokenizer,
                        uint64_t *fingerprint_out,
                        const char **bad_file_out)
{
    const char *field = settings->text_field != NULL ? settings->text_field : "";
    kd_text text = {0};
    int error = 0;

    *bad_file_out = NULL;
    kd_text_printf(&text, "%d %d %zu:%s %s %" PRIx64 " %u %a %" PRIu64 "\n", PACK_RULES,
                   settings->text_field != NULL ? 1 : 0, strlen(field), field, tokenizer->name,
                   tokenizer->hash, settings->sequence_length, settings->held_out,
                   settings->split_seed);
    for (size_t i = 0; i < settings->n_files && error == 0; i++) {
        *bad_file_out = settings->files[i];
        error = add_file(&text, settings->files[i]);
    }
    const bool ok = error == 0 && !text.failed;
    if (ok) {
        *fingerprint_out = XXH3_64bits(text.data, text.size);
    } else if (error == 0) {
        *bad_file_out = NULL;
    }
    kd_text_release(&text);
    errno = error;
    return ok;
}

static kd_status
make_info(const kd_pack_settings *settings, const kd_tokenizer *tokenizer, kd_shard_info *info_out)
{
    kd_shard_info info = {
        .vocab_size = tokenizer->vocab_size,
        .end_token = tokenizer->end_token,
        .tokenizer_hash = tokenizer->hash,
    };
    const char *bad_file;
    if (fingerprint(settings, tokenizer, &info.fingerprint, &bad_file)) {
        *info_out = info;
        return KD_OK;
    }
    if (bad_file == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to pack %zu files", settings->n_files);
    }
    const int error = errno;
    return kd_fail(kd_status_of_open_errno(error), "cannot open %s: %s", bad_file, strerror(error));
}

static kd_status pack_with(const kd_pack_settings *settings,
                           const kd_tokenizer *tokenizer,
                           kd_pack_result *result_out)
{
    const kd_corpus corpus = {
        .files = settings->files,
        .n_files = settings->n_files,
        .text_field = settings->text_field,
        .tokenizer = tokenizer,
    };
    splitter s = {
        .held_out = settings->held_out,
        .key = kd_rng_key(settings->split_seed, "split"),
        .block_tokens = (uint64_t)KD_PACK_BLOCK_SEQUENCES * settings->sequence_length,
        .forced_block = NO_BLOCK,
    };
    kd_shard_info info;

    kd_status st = make_info(settings, tokenizer, &info);
    if (st) {
        return st;
    }
    st = split_corpus(settings, &corpus, &info, &s);
    if (st) {
        return st;
    }
    st = commit_writers(settings, &s);
    if (!st && result_out != NULL) {
        result_out->n_train_tokens = s.n_split[TRAIN];
        result_out->n_test_tokens = s.n_split[TEST];
    }
    return st;
}

kd_status kd_pack(const kd_pack_settings *settings, kd_pack_result *result_out)
{
    kd_tokenizer *tokenizer;
    kd_status st = check_settings(settings);
    if (st) {
        return st;
    }
    st = kd_tokenizer_create(settings->tokenizer, &tokenizer);
    if (st) {
        return st;
    }
    st = pack_with(settings, tokenizer, result_out);
    kd_tokenizer_destroy(tokenizer);
    return st;
}

bool kd_pack_is_current(const kd_pack_settings *settings)
{
    kd_pack_result unused;
    return kd_pack_find(settings, &unused);
}

bool kd_pack_find(const kd_pack_settings *settings, kd_pack_result *result_out)
{
    uint64_t n_tokens[SPLITS] = {0};
    kd_tokenizer *tokenizer;
    const char *bad_file;
    uint64_t print;

    if (kd_tokenizer_create(settings->tokenizer, &tokenizer)) {
        return false;
    }
    bool current = fingerprint(settings, tokenizer, &print, &bad_file);
    for (split which = TRAIN; which < SPLITS && current; which++) {
        const char *path = path_of(settings, which);
        current = path == NULL || kd_shard_find(path, print, split_names[which], &n_tokens[which]);
    }
    kd_tokenizer_destroy(tokenizer);
    if (current) {
        *result_out = (kd_pack_result){n_tokens[TRAIN], n_tokens[TEST]};
    }
    return current;
}
