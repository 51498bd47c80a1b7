/*
 * model_folder.c - loads by the names that the shape asks for: what is missing or has another form is
 * refused, what nobody asked for is left alone, since other tools add tensors of their own.
 */
#include "format/model_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "format/hf_names.h"
#include "format/manifest.h"
#include "format/shards.h"
#include "shape/hf_config.h"
#include "tensor/half.h"

kd_status kd_model_folder_config(const char *folder, kd_model_config *config_out)
{
    char *path = kd_path_join(folder, "config.json");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    const kd_status st = kd_hf_config_read(path, config_out);
    free(path);
    return st;
}

static void describe_shape(kd_text *text, const int64_t *dims, int n_dims)
{
    kd_text_clear(text);
    kd_text_add(text, "(");
    for (int i = 0; i < n_dims; i++) {
        kd_text_printf(text, "%s%lld", i > 0 ? ", " : "", (long long)dims[i]);
    }
    kd_text_add(text, ")");
}

static kd_status fail_shape(const kd_safetensors_entry *entry, const kd_hf_tensor *expected)
{
    kd_text found_text = {0}, expected_text = {0};

    describe_shape(&found_text, entry->dims, entry->n_dims);
    describe_shape(&expected_text, expected->dims, expected->n_dims);
    const kd_status st =
        kd_fail(KD_ERR_INVALID,
                "%s: tensor \"%s\" has shape %s, expected %s: a checkpoint of another architecture",
                entry->path, entry->name, found_text.failed ? "(...)" : found_text.data,
                expected_text.failed ? "(...)" : expected_text.data);
    kd_text_release(&found_text);
    kd_text_release(&expected_text);
    return st;
}

static kd_status find_tensor(const char *folder,
                             const kd_shards *shards,
                             const kd_hf_tensor *expected,
                             const kd_safetensors_entry **entry_out)
{
    const kd_safetensors_entry *entry = kd_shards_find(shards, expected->name);
    if (entry == NULL) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: there is no tensor \"%s\", expected one of %lld elements: a checkpoint "
                       "of another architecture",
                       folder, expected->name, (long long)expected->n_elements);
    }
    if (entry->n_dims != expected->n_dims ||
        memcmp(entry->dims, expected->dims, (size_t)entry->n_dims * sizeof *entry->dims) != 0) {
        return fail_shape(entry, expected);
    }
    *entry_out = entry;
    return KD_OK;
}

/* Rotary frequencies follow from config.json, and a tied lm_head from the embedding. */
static bool is_redundant(const char *name, const kd_model_config *config)
{
    const char *tail = ".rotary_emb.inv_freq";
    const size_t n = strlen(name), n_tail = strlen(tail);
    return (n >= n_tail && strcmp(name + n - n_tail, tail) == 0) ||
           (config->tied_embeddings && strcmp(name, "lm_head.weight") == 0);
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

/* `names` are those of the model, sorted. */
static void warn_of_others(const char *folder,
                           const kd_shards *shards,
                           const kd_model_config *config,
                           const char *const *names,
                           size_t n_names)
{
    const char *first = NULL;
    size_t n_entries, n_others = 0;
    const kd_safetensors_entry *const *entries = kd_shards_entries(shards, &n_entries);

    for (size_t i = 0; i < n_entries; i++) {
        const char *name = entries[i]->name;
        if (bsearch(&name, names, n_names, sizeof *names, compare_names) == NULL &&
            !is_redundant(name, config)) {
            first = n_others++ == 0 ? name : first;
        }
    }
    if (n_others > 0) {
        kd_log(KD_LOG_WARN, "%s: %zu tensors are of no use to this model, \"%.200s\" the first",
               folder, n_others, first);
    }
}

/* All tensors are there and have their shapes. */
static kd_status check_tensors(const char *folder,
                               const kd_shards *shards,
                               const kd_model_config *config,
                               const kd_hf_tensor *tensors,
                               size_t n_tensors)
{
    kd_status st = KD_OK;
    const char **names = malloc(n_tensors * sizeof *names);
    if (names == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to check the tensors of %s", folder);
    }
    for (size_t i = 0; i < n_tensors && !st; i++) {
        const kd_safetensors_entry *entry;
        st = find_tensor(folder, shards, &tensors[i], &entry);
        names[i] = tensors[i].name;
    }
    if (!st) {
        qsort(names, n_tensors, sizeof *names, compare_names);
        warn_of_others(folder, shards, config, names, n_tensors);
    }
    free(names);
    return st;
}

static kd_status
load_tensor(const kd_safetensors_entry *entry, kd_parameters *params, int64_t offset, float *buffer)
{
    for (int64_t at = 0; at < entry->n_elements; at += KD_FOLDER_CHUNK) {
        const int64_t n =
            entry->n_elements - at < KD_FOLDER_CHUNK ? entry->n_elements - at : KD_FOLDER_CHUNK;
        const kd_status st = kd_safetensors_read_f32(entry, at, n, buffer);
        if (st) {
            return st;
        }
        kd_parameters_write(params, offset + at, buffer, n);
    }
    return KD_OK;
}

static kd_status load_tensors(const char *folder,
                              const kd_shards *shards,
                              kd_parameters *params,
                              const kd_hf_tensor *tensors,
                              size_t n_tensors)
{
    float *buffer = malloc(KD_FOLDER_CHUNK * sizeof *buffer);
    if (buffer == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to load %s", folder);
    }
    kd_status st = check_tensors(folder, shards, &params->config, tensors, n_tensors);
    for (size_t i = 0; i < n_tensors && !st; i++) {
        st =
            load_tensor(kd_shards_find(shards, tensors[i].name), params, tensors[i].offset, buffer);
    }
    free(buffer);
    return st;
}

/* The files that are read, held against a manifest: one beside those it lists would be read unseen. */
static kd_status check_listed(const char *folder, const kd_shards *shards)
{
    const size_t n = kd_shards_count(shards);
    size_t at = 0;
    const char **names = malloc((n + 3) * sizeof *names);
    if (names == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to open %s", folder);
    }
    names[at++] = "config.json";
    if (kd_shards_is_indexed(shards)) {
        names[at++] = KD_SHARDS_INDEX_NAME;
    }
    for (size_t i = 0; i < n; i++) {
        names[at++] = kd_shards_name(shards, i);
    }
    names[at] = NULL;
    const kd_status st = kd_manifest_lists(folder, names);
    free(names);
    return st;
}

/*
 * Opens a folder's files, of one that is sealed after a first reading of them all: a flipped bit trains
 * on for days, and the second reading finds them in memory where they fit.
 */
static kd_status open_verified(const char *folder, kd_shards **shards_out)
{
    kd_shards *shards;
    const bool is_sealed = kd_manifest_exists(folder);
    kd_status st = is_sealed ? kd_manifest_verify(folder) : KD_OK;
    if (!st) {
        st = kd_shards_open(folder, &shards);
    }
    if (st) {
        return st;
    }
    st = is_sealed ? check_listed(folder, shards) : KD_OK;
    if (st) {
        kd_shards_close(shards);
        return st;
    }
    *shards_out = shards;
    return KD_OK;
}

/* The text of config.json, to be written beside these weights again. */
static kd_status keep_config(const char *folder, kd_parameters *params)
{
    char *text;
    size_t size;
    char *path = kd_path_join(folder, "config.json");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    const kd_status st = kd_file_read(path, KD_HF_CONFIG_BYTES_MAX, &text, &size);
    free(path);
    if (st) {
        return st;
    }
    free(params->source_config);
    params->source_config = text;
    return KD_OK;
}

/* A folder's files, and what a model's parameters are called in them. */
typedef struct weights {
    kd_shards *shards;
    kd_hf_tensor *tensors;
    size_t n_tensors;
} weights;

static void close_weights(weights *w)
{
    kd_shards_close(w->shards);
    free(w->tensors);
}

static kd_status open_weights(const char *folder, const kd_parameters *params, weights *weights_out)
{
    weights w = {0};
    kd_status st = kd_hf_tensors_list(params, &w.tensors, &w.n_tensors);
    if (st) {
        return st;
    }
    st = open_verified(folder, &w.shards);
    if (st) {
        free(w.tensors);
        return st;
    }
    *weights_out = w;
    return KD_OK;
}

kd_status kd_model_folder_load(const char *folder, kd_parameters *params)
{
    weights w;
    kd_status st = open_weights(folder, params, &w);
    if (st) {
        return st;
    }
    st = load_tensors(folder, w.shards, params, w.tensors, w.n_tensors);
    if (!st) {
        st = kd_backend_wait(params->be);
    }
    if (!st) {
        st = keep_config(folder, params);
    }
    close_weights(&w);
    return st;
}

/* That a tensor's dtype is one that is read, too. */
static kd_status check_first_values(const kd_shards *shards, const kd_hf_tensor *tensors, size_t n)
{
    float value;
    kd_status st = KD_OK;
    for (size_t i = 0; i < n && !st; i++) {
        st = kd_safetensors_read_f32(kd_shards_find(shards, tensors[i].name), 0, 1, &value);
    }
    return st;
}

kd_status kd_model_folder_check(const char *folder, const kd_parameters *params)
{
    weights w;
    kd_status st = open_weights(folder, params, &w);
    if (st) {
        return st;
    }
    st = check_tensors(folder, w.shards, &params->config, w.tensors, w.n_tensors);
    if (!st) {
        st = check_first_values(w.shards, w.tensors, w.n_tensors);
    }
    close_weights(&w);
    return st;
}

/* Uploads all rows of a matrix, cast to the dtype of `dst`. */
static kd_status upload_matrix(kd_backend *be, kd_tensor dst, const kd_safetensors_entry *entry)
{
    const int64_t columns = kd_tensor_columns(dst), n_rows = kd_tensor_rows(dst);
    const int64_t rows_at_once = columns < KD_FOLDER_CHUNK ? KD_FOLDER_CHUNK / columns : 1;
    kd_status st = KD_OK;

    float *values = malloc((size_t)(rows_at_once * columns) * sizeof *values);
    uint16_t *halves = malloc((size_t)(rows_at_once * columns) * sizeof *halves);
    if (values == NULL || halves == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to load %s", entry->path);
    }
    for (int64_t row = 0; row < n_rows && !st; row += rows_at_once) {
        const int64_t rows = n_rows - row < rows_at_once ? n_rows - row : rows_at_once;
        st = kd_safetensors_read_f32(entry, row * columns, rows * columns, values);
        for (int64_t i = 0; i < rows * columns && !st && dst.dtype == KD_BF16; i++) {
            halves[i] = kd_bf16_from_f32(values[i]);
        }
        if (!st) {
            const void *host = dst.dtype == KD_BF16 ? (const void *)halves : values;
            be->ops->upload(be, kd_tensor_slice_rows(dst, row, rows), host);
        }
    }
    free(values);
    free(halves);
    return st ? st : kd_backend_wait(be);
}

/* The files that an lm_head comes from, if the folder is sealed; those of a large model's layers are not read. */
static kd_status
verify_lm_head(const char *folder, const kd_shards *shards, const kd_safetensors_entry *entry)
{
    const char *slash = strrchr(entry->path, '/');
    const char *names[] = {
        "config.json",
        slash != NULL ? slash + 1 : entry->path,
        kd_shards_is_indexed(shards) ? KD_SHARDS_INDEX_NAME : NULL,
        NULL,
    };
    return kd_manifest_exists(folder) ? kd_manifest_verify_files(folder, names) : KD_OK;
}

kd_status kd_model_folder_alloc_lm_head(const kd_model_config *config,
                                        kd_backend *be,
                                        kd_dtype dtype,
                                        kd_tensor *lm_head_out)
{
    kd_tensor lm_head = kd_tensor_2d(NULL, dtype, config->vocab_size, config->hidden_size);
    const kd_status st =
        kd_backend_place(be, KD_MEMORY_DEVICE, kd_tensor_bytes(lm_head), &lm_head.data,
                         "a teacher's lm_head of %lld rows", (long long)config->vocab_size);
    if (!st) {
        *lm_head_out = lm_head;
    }
    return st;
}

static kd_status load_lm_head(const char *folder,
                              const kd_shards *shards,
                              const kd_model_config *config,
                              kd_backend *be,
                              kd_dtype dtype,
                              kd_tensor *lm_head_out)
{
    const int64_t rows = config->vocab_size, columns = config->hidden_size;
    const kd_safetensors_entry *entry;
    kd_hf_tensor wanted = {.n_dims = 2, .dims = {rows, columns}, .n_elements = rows * columns};

    (void)snprintf(wanted.name, sizeof wanted.name, "%s",
                   config->tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
    kd_status st = find_tensor(folder, shards, &wanted, &entry);
    if (!st) {
        st = verify_lm_head(folder, shards, entry);
    }
    if (st) {
        return st;
    }
    kd_tensor lm_head;
    st = kd_model_folder_alloc_lm_head(config, be, dtype, &lm_head);
    if (st) {
        return st;
    }
    st = upload_matrix(be, lm_head, entry);
    if (st) {
        be->ops->free(be, lm_head.data);
        return st;
    }
    *lm_head_out = lm_head;
    return KD_OK;
}

kd_status kd_model_folder_load_lm_head(const char *folder,
                                       kd_backend *be,
                                       kd_dtype dtype,
                                       kd_tensor *lm_head_out)
{
    kd_model_config config;
    kd_shards *shards;

    kd_status st = kd_model_folder_config(folder, &config);
    if (st) {
        return st;
    }
    st = kd_shards_open(folder, &shards);
    if (st) {
        return st;
    }
    st = load_lm_head(folder, shards, &config, be, dtype, lm_head_out);
    kd_shards_close(shards);
    return st;
}
