/*
 * What a folder says of its tokenizer, best source first: distilld.json knows for sure; tokenizer.json is
 * recognised where it is what the byte tokenizer exports, and otherwise only named, since text cannot
 * be cut by it yet; the vocabulary's size alone is the last resort.
 */
#include "train/vocabulary.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "distill/loss.h"
#include "format/model_folder.h"
#include "shape/json_file.h"

enum { TOKENIZER_BYTES_MAX = 256 << 20 };

static kd_status
check_lineage(const char *folder, const kd_lineage *lineage, const kd_tokenizer *tokenizer)
{
    if (strcmp(lineage->tokenizer, tokenizer->name) == 0 &&
        lineage->tokenizer_hash == tokenizer->hash) {
        return KD_OK;
    }
    return kd_fail(KD_ERR_INVALID,
                   "%s: found tokenizer \"%s\" (%016" PRIx64 ") in %s, expected \"%s\" (%016" PRIx64
                   "): its tokens mean something else",
                   folder, lineage->tokenizer, lineage->tokenizer_hash, KD_LINEAGE_NAME,
                   tokenizer->name, tokenizer->hash);
}

/* A BPE without merges whose entries are as many as the tokenizer's. */
static kd_status
check_tokenizer_json(const char *path, const json_t *root, const kd_tokenizer *tokenizer)
{
    const json_t *model = json_object_get(root, "model");
    const char *type = json_string_value(json_object_get(model, "type"));
    const size_t n_entries = json_object_size(json_object_get(model, "vocab"));
    const size_t n_merges = json_array_size(json_object_get(model, "merges"));
    if (type != NULL && strcmp(type, "BPE") == 0 && n_merges == 0 &&
        n_entries == tokenizer->vocab_size) {
        return KD_OK;
    }
    return kd_fail(KD_ERR_INVALID,
                   "%s: found a tokenizer of type %s with %zu entries and %zu merges, which is not "
                   "understood yet; expected \"%s\"",
                   path, type != NULL ? type : "unknown", n_entries, n_merges, tokenizer->name);
}

static kd_status
check_files(const char *folder, const char *path, bool has_json, const kd_tokenizer *tokenizer)
{
    kd_model_config config;
    json_t *root;
    if (has_json) {
        kd_status st = kd_json_file_read(path, TOKENIZER_BYTES_MAX, &root);
        if (!st) {
            st = check_tokenizer_json(path, root, tokenizer);
            json_decref(root);
        }
        return st;
    }
    const kd_status st = kd_model_folder_config(folder, &config);
    if (st) {
        return st;
    }
    const int64_t least = tokenizer->vocab_size;
    if (config.vocab_size < least || config.vocab_size >= least + KD_VOCAB_PADDING_MAX) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: found a vocabulary of %" PRId64 " tokens and no file that names its "
                       "tokenizer, expected %" PRId64 " to %" PRId64 " for \"%s\"",
                       folder, config.vocab_size, least, least + KD_VOCAB_PADDING_MAX - 1,
                       tokenizer->name);
    }
    return KD_OK;
}

kd_status kd_vocabulary_check(const char *folder, const kd_tokenizer *tokenizer)
{
    kd_lineage lineage;
    bool has_lineage = false;
    kd_status st = kd_lineage_read(folder, &lineage, &has_lineage);
    if (st) {
        return st;
    }
    if (has_lineage) {
        return check_lineage(folder, &lineage, tokenizer);
    }
    char *path = kd_path_join(folder, "tokenizer.json");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    st = check_files(folder, path, kd_file_exists(path), tokenizer);
    free(path);
    return st;
}

/* The held-out text is the same where its tokens are. */
static bool is_same_split(const kd_lineage_split *a, const kd_lineage_split *b)
{
    return a->test_hash == b->test_hash;
}

bool kd_vocabulary_warn_of_split(const char *who, const char *folder, const kd_lineage_split *split)
{
    kd_lineage lineage;
    bool has_lineage = false;
    if (split->test_hash == 0 || kd_lineage_read(folder, &lineage, &has_lineage) || !has_lineage ||
        !lineage.has_split || is_same_split(&lineage.split, split)) {
        return false;
    }
    const kd_lineage_split *s = &lineage.split;
    kd_log(KD_LOG_WARN,
           "%s: %s was trained with another split (found seed %" PRIu64
           ", held out %g, sequences of "
           "%" PRIu64 "; here seed %" PRIu64 ", held out %g, sequences of %" PRIu64
           "): it may have seen text that is held out here, and what is tested may be too good",
           who, folder, s->seed, s->held_out, s->sequence_length, split->seed, split->held_out,
           split->sequence_length);
    return true;
}
