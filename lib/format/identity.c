/*
 * Why edges: the tensors of a large model take minutes to read, and each start of a job would read
 * them once for nothing. Two checkpoints of one shape differ in nearly every value, so the ends of each
 * tensor tell them apart; a single flipped bit is what manifests are for.
 */
#include "format/identity.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/manifest.h"
#include "format/shards.h"
#include "shape/hf_config.h"

enum { PIECE_BYTES = 1 << 24 };

/* Text with its end, so that "ab", "c" is not "a", "bc". */
static void add_text(XXH3_state_t *state, const char *text)
{
    XXH3_64bits_update(state, text, strlen(text) + 1);
}

static void add_number(XXH3_state_t *state, uint64_t number)
{
    XXH3_64bits_update(state, &number, sizeof number);
}

static kd_status add_all(XXH3_state_t *state, const uint8_t *data, uint64_t size)
{
    kd_status st = KD_OK;
    for (uint64_t at = 0; at < size && !st; at += PIECE_BYTES) {
        const uint64_t n = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
        XXH3_64bits_update(state, data + at, (size_t)n);
        st = kd_progress_go_on();
    }
    return st;
}

static kd_status
add_tensor(XXH3_state_t *state, const kd_safetensors_entry *entry, kd_identity_depth depth)
{
    add_text(state, entry->name);
    add_text(state, kd_safetensors_dtype_name(entry->dtype));
    for (int i = 0; i < entry->n_dims; i++) {
        add_number(state, (uint64_t)entry->dims[i]);
    }
    add_number(state, entry->size_bytes);
    if (depth == KD_IDENTITY_FULL || entry->size_bytes <= (uint64_t)2 * KD_IDENTITY_EDGE_BYTES) {
        return add_all(state, entry->data, entry->size_bytes);
    }
    XXH3_64bits_update(state, entry->data, KD_IDENTITY_EDGE_BYTES);
    XXH3_64bits_update(state, entry->data + entry->size_bytes - KD_IDENTITY_EDGE_BYTES,
                       KD_IDENTITY_EDGE_BYTES);
    return kd_progress_go_on();
}

/* By name: how tensors are spread over files is no part of it. */
static kd_status add_tensors(XXH3_state_t *state, const kd_shards *shards, kd_identity_depth depth)
{
    size_t n;
    kd_status st = KD_OK;
    const kd_safetensors_entry *const *entries = kd_shards_entries(shards, &n);
    for (size_t i = 0; i < n && !st; i++) {
        st = add_tensor(state, entries[i], depth);
    }
    return st;
}

static kd_status add_config(XXH3_state_t *state, const char *folder)
{
    char *text = NULL;
    size_t size = 0;
    char *path = kd_path_join(folder, "config.json");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    const kd_status st = kd_file_read(path, KD_HF_CONFIG_BYTES_MAX, &text, &size);
    free(path);
    if (!st) {
        add_number(state, size);
        XXH3_64bits_update(state, text, size);
        free(text);
    }
    return st;
}

static kd_status add_contents(XXH3_state_t *state, const char *folder, kd_identity_depth depth)
{
    kd_shards *shards = NULL;
    kd_status st = add_config(state, folder);
    if (!st) {
        st = kd_shards_open(folder, &shards);
    }
    if (!st) {
        st = add_tensors(state, shards, depth);
        kd_shards_close(shards);
    }
    return st;
}

static kd_status sealed_identity(const char *folder, kd_identity_depth depth, uint64_t *out)
{
    const kd_status st = kd_manifest_digest(folder, out);
    return st || depth == KD_IDENTITY_EDGES ? st : kd_manifest_verify(folder);
}

static kd_status unsealed_identity(const char *folder, kd_identity_depth depth, uint64_t *out)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to hash %s", folder);
    }
    XXH3_64bits_reset(state);
    const kd_status st = add_contents(state, folder, depth);
    *out = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return st;
}

kd_status
kd_model_folder_identity(const char *folder, kd_identity_depth depth, uint64_t *identity_out)
{
    uint64_t identity = 0;
    const kd_status st = kd_manifest_exists(folder) ? sealed_identity(folder, depth, &identity)
                                                    : unsealed_identity(folder, depth, &identity);
    if (!st) {
        *identity_out = identity;
    }
    return st;
}
