/*
 * safetensors.c - the header is a stranger's: every offset, length and name is checked before a tensor is
 * given out, and readers check nothing again. Data is mapped, so what is not read costs nothing.
 */
#include "format/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/safetensors_density.h"
#include "tensor/half.h"

enum { LENGTH_BYTES = 8 };

struct kd_safetensors {
    char *path;
    kd_mapping mapping; /* empty where the bytes are the caller's */
    json_t *header;     /* owns the names */
    kd_safetensors_entry *entries;
    size_t n_entries;
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [KD_SAFETENSORS_F64] = {"F64", 8}, [KD_SAFETENSORS_F32] = {"F32", 4},
    [KD_SAFETENSORS_F16] = {"F16", 2}, [KD_SAFETENSORS_BF16] = {"BF16", 2},
    [KD_SAFETENSORS_I64] = {"I64", 8}, [KD_SAFETENSORS_I32] = {"I32", 4},
    [KD_SAFETENSORS_I16] = {"I16", 2}, [KD_SAFETENSORS_I8] = {"I8", 1},
    [KD_SAFETENSORS_U8] = {"U8", 1},   [KD_SAFETENSORS_BOOL] = {"BOOL", 1},
};

_Static_assert(sizeof dtypes / sizeof *dtypes == KD_SAFETENSORS_DTYPE_COUNT, "name every dtype");

const char *kd_safetensors_dtype_name(kd_safetensors_dtype dtype)
{
    KD_CHECK(dtype < KD_SAFETENSORS_DTYPE_COUNT);
    return dtypes[dtype].name;
}

size_t kd_safetensors_dtype_bytes(kd_safetensors_dtype dtype)
{
    KD_CHECK(dtype < KD_SAFETENSORS_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

/* Reports a fault of one tensor; names come from the file and may be long. */
#define FAIL_TENSOR(status, entry, format, ...)                                                    \
    kd_fail(status, "%s: tensor \"%.200s\": " format, (entry)->path, (entry)->name, __VA_ARGS__)

static kd_status parse_dtype(const json_t *object, kd_safetensors_entry *entry)
{
    const char *name = json_string_value(json_object_get(object, "dtype"));
    if (name == NULL) {
        return FAIL_TENSOR(KD_ERR_PROTO, entry, "%s", "expected a string in \"dtype\"");
    }
    for (unsigned i = 0; i < KD_SAFETENSORS_DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            entry->dtype = (kd_safetensors_dtype)i;
            return KD_OK;
        }
    }
    return FAIL_TENSOR(KD_ERR_INVALID, entry,
                       "unknown dtype \"%.40s\", expected one of F64, F32, F16, BF16, I64, I32, "
                       "I16, I8, U8, BOOL",
                       name);
}

static kd_status parse_shape(const json_t *object, kd_safetensors_entry *entry)
{
    const json_t *shape = json_object_get(object, "shape");
    if (!json_is_array(shape)) {
        return FAIL_TENSOR(KD_ERR_PROTO, entry, "%s", "expected a list in \"shape\"");
    }
    if (json_array_size(shape) > KD_SAFETENSORS_DIMS_MAX) {
        return FAIL_TENSOR(KD_ERR_INVALID, entry, "shape of %zu dimensions, expected at most %d",
                           json_array_size(shape), KD_SAFETENSORS_DIMS_MAX);
    }
    entry->n_dims = (int)json_array_size(shape);
    entry->n_elements = 1;
    for (int i = 0; i < entry->n_dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0) {
            return FAIL_TENSOR(KD_ERR_PROTO, entry,
                               "dimension %d of its shape is not an integer of 0 or more", i);
        }
        entry->dims[i] = json_integer_value(dim);
        if (__builtin_mul_overflow(entry->n_elements, entry->dims[i], &entry->n_elements)) {
            return FAIL_TENSOR(KD_ERR_PROTO, entry,
                               "the product of its shape overflows at dimension %d of %" PRId64, i,
                               entry->dims[i]);
        }
    }
    return KD_OK;
}

/* Fills data with the offset in `buffer` applied; the length must be that of dtype and shape. */
static kd_status parse_offsets(const json_t *object,
                               const uint8_t *buffer,
                               uint64_t buffer_bytes,
                               kd_safetensors_entry *entry)
{
    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0);
    const json_t *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return FAIL_TENSOR(KD_ERR_PROTO, entry, "%s", "expected two integers in \"data_offsets\"");
    }
    const json_int_t from = json_integer_value(begin);
    const json_int_t to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > buffer_bytes) {
        return FAIL_TENSOR(
            KD_ERR_PROTO, entry,
            "data_offsets [%lld, %lld] are out of range, expected within the %" PRIu64
            " bytes of data",
            (long long)from, (long long)to, buffer_bytes);
    }
    uint64_t expected;
    if (__builtin_mul_overflow((uint64_t)entry->n_elements, dtypes[entry->dtype].bytes,
                               &expected)) {
        return FAIL_TENSOR(KD_ERR_PROTO, entry,
                           "the bytes of its shape overflow: %" PRId64 " elements of %s",
                           entry->n_elements, dtypes[entry->dtype].name);
    }
    entry->data = buffer + from;
    entry->size_bytes = (uint64_t)(to - from);
    if (entry->size_bytes != expected) {
        return FAIL_TENSOR(KD_ERR_PROTO, entry,
                           "data_offsets hold %" PRIu64 " bytes, expected %" PRIu64 " for %" PRId64
                           " elements of %s",
                           entry->size_bytes, expected, entry->n_elements,
                           dtypes[entry->dtype].name);
    }
    return KD_OK;
}

static kd_status check_metadata(const char *path, json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata)) {
        return kd_fail(KD_ERR_PROTO, "%s: expected an object in \"__metadata__\"", path);
    }
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value)) {
            return kd_fail(KD_ERR_PROTO,
                           "%s: expected a string in \"__metadata__\" under \"%.200s\"", path, key);
        }
    }
    return KD_OK;
}

static kd_status parse_entries(kd_safetensors *file, const uint8_t *buffer, uint64_t buffer_bytes)
{
    const char *name;
    json_t *value;

    json_object_foreach(file->header, name, value)
    {
        kd_status st;
        if (strcmp(name, "__metadata__") == 0) {
            st = check_metadata(file->path, value);
            if (st) {
                return st;
            }
            continue;
        }
        kd_safetensors_entry *entry = &file->entries[file->n_entries++];
        *entry = (kd_safetensors_entry){.path = file->path, .name = name};
        if (!json_is_object(value)) {
            return FAIL_TENSOR(KD_ERR_PROTO, entry, "%s", "expected an object");
        }
        st = parse_dtype(value, entry);
        if (!st) {
            st = parse_shape(value, entry);
        }
        if (!st) {
            st = parse_offsets(value, buffer, buffer_bytes, entry);
        }
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

/* By place, an empty tensor before the one that begins where it does; then by name. */
static int compare_places(const void *left, const void *right)
{
    const kd_safetensors_entry *a = left, *b = right;
    if (a->data != b->data) {
        return a->data < b->data ? -1 : 1;
    }
    if (a->size_bytes != b->size_bytes) {
        return a->size_bytes < b->size_bytes ? -1 : 1;
    }
    return strcmp(a->name, b->name);
}

static int compare_names(const void *left, const void *right)
{
    const kd_safetensors_entry *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static kd_status
check_places(const kd_safetensors *file, const uint8_t *buffer, uint64_t buffer_bytes)
{
    uint64_t end = 0;

    for (size_t i = 0; i < file->n_entries; i++) {
        const kd_safetensors_entry *entry = &file->entries[i];
        const uint64_t begin = (uint64_t)(entry->data - buffer);
        if (begin < end) {
            return FAIL_TENSOR(KD_ERR_PROTO, entry,
                               "its data begins at %" PRIu64 " and overlaps tensor \"%.200s\", "
                               "which ends at %" PRIu64,
                               begin, file->entries[i - 1].name, end);
        }
        if (begin > end) {
            return FAIL_TENSOR(KD_ERR_PROTO, entry,
                               "its data begins at %" PRIu64 " behind a hole, expected %" PRIu64,
                               begin, end);
        }
        end += entry->size_bytes;
    }
    if (end != buffer_bytes) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: the file holds %" PRIu64 " bytes of data, expected %" PRIu64
                       " as its tensors need",
                       file->path, buffer_bytes, end);
    }
    return KD_OK;
}

static kd_status
read_length(const char *path, const uint8_t *bytes, size_t size_bytes, size_t *length_out)
{
    uint64_t length = 0;

    if (size_bytes < LENGTH_BYTES) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: the file is %zu bytes long, expected a safetensors file of 8 or more",
                       path, size_bytes);
    }
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) {
        length = length << 8 | bytes[i];
    }
    if (length > KD_SAFETENSORS_HEADER_BYTES_MAX) {
        return kd_fail(KD_ERR_PROTO, "%s: header length %" PRIu64 ", expected at most %u bytes",
                       path, length, KD_SAFETENSORS_HEADER_BYTES_MAX);
    }
    if (length > size_bytes - LENGTH_BYTES) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: header length %" PRIu64 " reaches beyond the end of the file, "
                       "expected at most %zu",
                       path, length, size_bytes - LENGTH_BYTES);
    }
    if (length < 2 || bytes[LENGTH_BYTES] != '{') {
        return kd_fail(KD_ERR_PROTO,
                       "%s: the header of %" PRIu64 " bytes does not begin with '{', expected a "
                       "JSON object",
                       path, length);
    }
    *length_out = (size_t)length;
    return KD_OK;
}

static kd_status parse_header(kd_safetensors *file, const uint8_t *bytes, size_t length)
{
    json_error_t error;
    const kd_status st = kd_safetensors_check_density(file->path, bytes, length);
    if (st) {
        return st;
    }
    kd_progress_tick();
    file->header = json_loadb((const char *)bytes, length, JSON_REJECT_DUPLICATES, &error);
    if (file->header == NULL) {
        return kd_fail(KD_ERR_PROTO, "%s: the header is not valid JSON: %s at byte %d", file->path,
                       error.text, error.position + LENGTH_BYTES);
    }
    kd_progress_tick();
    KD_CHECK(json_is_object(file->header)); /* it begins with '{' */
    file->entries = calloc(json_object_size(file->header) + 1, sizeof *file->entries);
    if (file->entries == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory for its table of tensors", file->path);
    }
    return KD_OK;
}

static kd_status parse(kd_safetensors *file, const uint8_t *bytes, size_t size_bytes)
{
    size_t length = 0;

    kd_status st = read_length(file->path, bytes, size_bytes, &length);
    if (st) {
        return st;
    }
    st = parse_header(file, bytes + LENGTH_BYTES, length);
    if (st) {
        return st;
    }
    const uint8_t *buffer = bytes + LENGTH_BYTES + length;
    const uint64_t buffer_bytes = size_bytes - LENGTH_BYTES - length;
    st = parse_entries(file, buffer, buffer_bytes);
    if (st) {
        return st;
    }
    qsort(file->entries, file->n_entries, sizeof *file->entries, compare_places);
    st = check_places(file, buffer, buffer_bytes);
    if (st) {
        return st;
    }
    qsort(file->entries, file->n_entries, sizeof *file->entries, compare_names);
    return KD_OK;
}

static kd_safetensors *create(const char *path)
{
    kd_safetensors *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return NULL;
    }
    file->path = strdup(path);
    if (file->path == NULL) {
        free(file);
        return NULL;
    }
    return file;
}

kd_status kd_safetensors_open_memory(const char *path,
                                     const void *bytes,
                                     size_t size_bytes,
                                     kd_safetensors **file_out)
{
    kd_safetensors *file = create(path);
    if (file == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to open %s", path);
    }
    const kd_status st = parse(file, bytes, size_bytes);
    if (st) {
        kd_safetensors_close(file);
        return st;
    }
    *file_out = file;
    return KD_OK;
}

kd_status kd_safetensors_open(const char *path, kd_safetensors **file_out)
{
    kd_mapping mapping;
    kd_safetensors *file;

    kd_status st = kd_file_map(path, &mapping);
    if (st) {
        return st;
    }
    st = kd_safetensors_open_memory(path, mapping.data, mapping.size_bytes, &file);
    if (st) {
        kd_file_unmap(&mapping);
        return st;
    }
    file->mapping = mapping;
    *file_out = file;
    return KD_OK;
}

void kd_safetensors_close(kd_safetensors *file)
{
    if (file == NULL) {
        return;
    }
    json_decref(file->header);
    free(file->entries);
    kd_file_unmap(&file->mapping);
    free(file->path);
    free(file);
}

size_t kd_safetensors_count(const kd_safetensors *file)
{
    return file->n_entries;
}

const kd_safetensors_entry *kd_safetensors_at(const kd_safetensors *file, size_t index)
{
    KD_CHECK(index < file->n_entries);
    return &file->entries[index];
}

const kd_safetensors_entry *kd_safetensors_find(const kd_safetensors *file, const char *name)
{
    const kd_safetensors_entry key = {.name = name};
    return bsearch(&key, file->entries, file->n_entries, sizeof key, compare_names);
}

static void read_f64(const uint8_t *data, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, data + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

static void read_half(const uint8_t *data, int64_t n, float *out, float (*convert)(uint16_t))
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t value;
        memcpy(&value, data + 2 * i, sizeof value);
        out[i] = convert(value);
    }
}

kd_status
kd_safetensors_read_f32(const kd_safetensors_entry *entry, int64_t first, int64_t n, float *out)
{
    KD_CHECK(first >= 0 && n >= 0 && first <= entry->n_elements && n <= entry->n_elements - first);
    if (n == 0) {
        return KD_OK;
    }
    const kd_status st = kd_progress_go_on();
    if (st) {
        return st;
    }
    const uint8_t *data = entry->data + (uint64_t)first * dtypes[entry->dtype].bytes;

    switch (entry->dtype) {
    case KD_SAFETENSORS_F64:
        read_f64(data, n, out);
        return KD_OK;
    case KD_SAFETENSORS_F32:
        memcpy(out, data, (size_t)n * sizeof *out);
        return KD_OK;
    case KD_SAFETENSORS_F16:
        read_half(data, n, out, kd_f16_to_f32);
        return KD_OK;
    case KD_SAFETENSORS_BF16:
        read_half(data, n, out, kd_bf16_to_f32);
        return KD_OK;
    case KD_SAFETENSORS_I64:
    case KD_SAFETENSORS_I32:
    case KD_SAFETENSORS_I16:
    case KD_SAFETENSORS_I8:
    case KD_SAFETENSORS_U8:
    case KD_SAFETENSORS_BOOL:
    case KD_SAFETENSORS_DTYPE_COUNT:
        break;
    }
    return FAIL_TENSOR(KD_ERR_INVALID, entry, "dtype %s, expected F32, BF16, F16 or F64",
                       dtypes[entry->dtype].name);
}
