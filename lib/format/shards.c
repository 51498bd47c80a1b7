/*
 * shards.c - a model in several files looks like one. Where there is an index it is believed, but no path
 * in it: its names are those of files beside it.
 */
#include "format/shards.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "shape/json_file.h"

enum { INDEX_BYTES_MAX = 32 << 20 }; /* of some 300,000 tensors */

typedef struct shard {
    char *name; /* of the file, within the folder */
    kd_safetensors *file;
} shard;

struct kd_shards {
    shard *shards; /* in the order of their names */
    size_t n_shards;
    const kd_safetensors_entry **entries; /* of all of them, in the order of names */
    size_t n_entries;
    bool is_indexed;
};

/* The place of `name`, or where it belongs. */
static size_t place_of(const kd_shards *set, const char *name)
{
    size_t from = 0, to = set->n_shards;
    while (from < to) {
        const size_t middle = from + (to - from) / 2;
        if (strcmp(set->shards[middle].name, name) < 0) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

/* Takes `name` and `file` over; there is room. */
static void insert(kd_shards *set, char *name, kd_safetensors *file)
{
    const size_t at = place_of(set, name);
    memmove(&set->shards[at + 1], &set->shards[at], (set->n_shards - at) * sizeof *set->shards);
    set->shards[at] = (shard){.name = name, .file = file};
    set->n_shards++;
}

static kd_status add_shard(kd_shards *set, const char *folder, const char *name)
{
    kd_safetensors *file;
    kd_status st;

    char *path = kd_path_join(folder, name);
    char *copy = strdup(name);
    shard *grown = realloc(set->shards, (set->n_shards + 1) * sizeof *grown);
    if (grown != NULL) {
        set->shards = grown;
    }
    if (path == NULL || copy == NULL || grown == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to open %s", folder);
        goto err_free;
    }
    st = kd_safetensors_open(path, &file);
    if (st) {
        goto err_free;
    }
    free(path);
    insert(set, copy, file);
    return KD_OK;

err_free:
    free(path);
    free(copy);
    return st;
}

static const shard *find_shard(const kd_shards *set, const char *name)
{
    const size_t at = place_of(set, name);
    return at < set->n_shards && strcmp(set->shards[at].name, name) == 0 ? &set->shards[at] : NULL;
}

static kd_status add_named(kd_shards *set,
                           const char *folder,
                           const char *index,
                           const char *tensor,
                           const char *file)
{
    if (file == NULL || file[0] == '\0' || file[0] == '.' || strchr(file, '/') != NULL) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: tensor \"%.200s\": expected the name of a file in the same folder, "
                       "found \"%.200s\"",
                       index, tensor, file != NULL ? file : "");
    }
    if (find_shard(set, file) == NULL) {
        const kd_status st = add_shard(set, folder, file);
        if (st) {
            return st;
        }
    }
    if (kd_safetensors_find(find_shard(set, file)->file, tensor) == NULL) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: tensor \"%.200s\" is not in %.200s, where the index puts it", index,
                       tensor, file);
    }
    return KD_OK;
}

static kd_status
add_indexed(kd_shards *set, const char *folder, const char *index, json_t *weight_map)
{
    const char *tensor;
    json_t *file;
    size_t n_tensors = 0;

    if (!json_is_object(weight_map)) {
        return kd_fail(KD_ERR_PROTO, "%s: expected an object in \"weight_map\"", index);
    }
    json_object_foreach(weight_map, tensor, file)
    {
        const kd_status st = add_named(set, folder, index, tensor, json_string_value(file));
        if (st) {
            return st;
        }
    }
    for (size_t i = 0; i < set->n_shards; i++) {
        n_tensors += kd_safetensors_count(set->shards[i].file);
    }
    if (n_tensors != json_object_size(weight_map)) {
        return kd_fail(KD_ERR_INVALID, "%s names %zu tensors, but its files hold %zu", index,
                       json_object_size(weight_map), n_tensors);
    }
    return KD_OK;
}

static kd_status open_index(kd_shards *set, const char *folder, const char *index)
{
    json_t *root;
    kd_progress_tick();
    kd_status st = kd_json_file_read(index, INDEX_BYTES_MAX, &root);
    kd_progress_tick(); /* a large one takes seconds */
    if (st) {
        return st;
    }
    set->is_indexed = true;
    st = add_indexed(set, folder, index, json_object_get(root, "weight_map"));
    json_decref(root);
    return st;
}

static kd_status open_files(kd_shards *set, const char *folder)
{
    kd_status st;
    char *whole = kd_path_join(folder, "model.safetensors");
    char *index = kd_path_join(folder, KD_SHARDS_INDEX_NAME);

    if (whole == NULL || index == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to open %s", folder);
    } else if (kd_file_exists(whole)) {
        st = add_shard(set, folder, "model.safetensors");
    } else if (kd_file_exists(index)) {
        st = open_index(set, folder, index);
    } else {
        st = kd_fail(KD_ERR_NOT_FOUND,
                     "%s: expected model.safetensors or model.safetensors.index.json there, found "
                     "neither",
                     folder);
    }
    free(whole);
    free(index);
    return st;
}

static int compare_names(const void *left, const void *right)
{
    const kd_safetensors_entry *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* A model has tens of thousands of tensors in hundreds of files: each is found by one search. */
static kd_status sort_entries(kd_shards *set, const char *folder)
{
    size_t n = 0;
    for (size_t s = 0; s < set->n_shards; s++) {
        n += kd_safetensors_count(set->shards[s].file);
    }
    set->entries = malloc((n + 1) * sizeof *set->entries);
    if (set->entries == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to open %s", folder);
    }
    for (size_t s = 0; s < set->n_shards; s++) {
        for (size_t i = 0; i < kd_safetensors_count(set->shards[s].file); i++) {
            set->entries[set->n_entries++] = kd_safetensors_at(set->shards[s].file, i);
        }
    }
    qsort(set->entries, n, sizeof *set->entries, compare_names);
    return KD_OK;
}

kd_status kd_shards_open(const char *folder, kd_shards **shards_out)
{
    kd_shards *set = calloc(1, sizeof *set);
    if (set == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to open %s", folder);
    }
    kd_status st = open_files(set, folder);
    if (!st) {
        st = sort_entries(set, folder);
    }
    if (st) {
        kd_shards_close(set);
        return st;
    }
    *shards_out = set;
    return KD_OK;
}

void kd_shards_close(kd_shards *set)
{
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; i < set->n_shards; i++) {
        kd_safetensors_close(set->shards[i].file);
        free(set->shards[i].name);
    }
    free(set->shards);
    free(set->entries);
    free(set);
}

const kd_safetensors_entry *kd_shards_find(const kd_shards *set, const char *name)
{
    const kd_safetensors_entry key = {.name = name}, *wanted = &key;
    const kd_safetensors_entry *const *found =
        bsearch(&wanted, set->entries, set->n_entries, sizeof *set->entries, compare_names);
    return found != NULL ? *found : NULL;
}

const kd_safetensors_entry *const *kd_shards_entries(const kd_shards *set, size_t *n_out)
{
    *n_out = set->n_entries;
    return set->entries;
}

size_t kd_shards_count(const kd_shards *set)
{
    return set->n_shards;
}

const char *kd_shards_name(const kd_shards *set, size_t index)
{
    KD_CHECK(index < set->n_shards);
    return set->shards[index].name;
}

bool kd_shards_is_indexed(const kd_shards *set)
{
    return set->is_indexed;
}
