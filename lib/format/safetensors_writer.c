/*
 * safetensors_writer.c - all shapes are known first, so the header is written once and whole, and values
 * follow in its order: a model is never twice in memory.
 */
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/writer.h"
#include "format/safetensors.h"
#include "shape/json_file.h"
#include "tensor/half.h"

enum { ALIGNMENT = 8, CHUNK = 4096 };

/* The bits of the smallest number whose nearest value in the file is infinite. */
enum { F32_TOO_LARGE = 0x7f800000, BF16_TOO_LARGE = 0x7f7f8000, SIGN_MASK = 0x7fffffff };

/* What is left to write of each tensor. */
typedef struct piece {
    char *name; /* owned */
    kd_safetensors_dtype dtype;
    int64_t n_elements, n_left;
} piece;

struct kd_safetensors_writer {
    kd_writer file;
    piece *pieces;
    size_t n_pieces, current;
};

static int64_t count_elements(const kd_safetensors_spec *spec)
{
    int64_t n = 1;

    KD_CHECK(spec->n_dims >= 0 && spec->n_dims <= KD_SAFETENSORS_DIMS_MAX);
    for (int i = 0; i < spec->n_dims; i++) {
        KD_CHECK(spec->dims[i] >= 0 && !__builtin_mul_overflow(n, spec->dims[i], &n));
    }
    return n;
}

/* NULL without memory. */
static json_t *describe_shape(const kd_safetensors_spec *spec)
{
    json_t *shape = json_array();
    for (int i = 0; i < spec->n_dims; i++) {
        if (json_array_append_new(shape, json_integer(spec->dims[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    }
    return shape;
}

static int64_t data_bytes(const kd_safetensors_spec *spec)
{
    return count_elements(spec) * (int64_t)kd_safetensors_dtype_bytes(spec->dtype);
}

/* Adds one tensor, whose data is [begin, end). */
static kd_status
describe(json_t *header, const kd_safetensors_spec *spec, int64_t begin, int64_t end)
{
    if (spec->name[kd_utf8_span(spec->name)] != '\0' || json_object_get(header, spec->name)) {
        return kd_fail(KD_ERR_ARG, "cannot describe tensor \"%.200s\": names must be unique UTF-8",
                       spec->name);
    }
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", kd_safetensors_dtype_name(spec->dtype), "shape",
                  describe_shape(spec), "data_offsets", (json_int_t)begin, (json_int_t)end);
    if (json_object_set_new(header, spec->name, entry) != 0) {
        return kd_fail(KD_ERR_NOMEM, "no memory to describe tensor \"%.200s\"", spec->name);
    }
    return KD_OK;
}

/* The header's JSON object. */
static kd_status describe_all(const kd_safetensors_spec *specs, size_t n_specs, json_t **header_out)
{
    int64_t begin = 0;
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    kd_status st = header != NULL
                       ? KD_OK
                       : kd_fail(KD_ERR_NOMEM, "no memory to describe %zu tensors", n_specs);
    for (size_t i = 0; i < n_specs && !st; i++) {
        const int64_t end = begin + data_bytes(&specs[i]);
        st = describe(header, &specs[i], begin, end);
        begin = end;
    }
    if (st) {
        json_decref(header);
        return st;
    }
    *header_out = header;
    return KD_OK;
}

/* Length and header, padded with spaces so that the data is aligned. */
static kd_status make_header(const kd_safetensors_spec *specs, size_t n_specs, kd_text *text)
{
    uint8_t length[8] = {0};

    json_t *header;
    const kd_status st = describe_all(specs, n_specs, &header);
    if (st) {
        return st;
    }
    kd_text_add_bytes(text, length, sizeof length);
    kd_json_printer p = {.text = text};
    kd_json_tree(&p, header, false);
    json_decref(header);
    while (!text->failed && text->size % ALIGNMENT != 0) {
        kd_text_add(text, " ");
    }
    if (text->failed) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a header of %zu tensors", n_specs);
    }
    const uint64_t size = text->size - sizeof length;
    for (size_t i = 0; i < sizeof length; i++) {
        length[i] = (uint8_t)(size >> 8 * i);
    }
    memcpy(text->data, length, sizeof length);
    return KD_OK;
}

kd_status
kd_safetensors_file_bytes(const kd_safetensors_spec *specs, size_t n_specs, uint64_t *bytes_out)
{
    kd_text header = {0};
    const kd_status st = make_header(specs, n_specs, &header);
    uint64_t bytes = header.size;
    kd_text_release(&header);
    for (size_t i = 0; i < n_specs; i++) {
        bytes += (uint64_t)data_bytes(&specs[i]);
    }
    if (!st) {
        *bytes_out = bytes;
    }
    return st;
}

static void skip_written(kd_safetensors_writer *writer)
{
    while (writer->current < writer->n_pieces && writer->pieces[writer->current].n_left == 0) {
        writer->current++;
    }
}

static void release(kd_safetensors_writer *writer)
{
    for (size_t i = 0; i < writer->n_pieces; i++) {
        free(writer->pieces[i].name);
    }
    free(writer->pieces);
    free(writer);
}

static bool describe_piece(const kd_safetensors_spec *spec, piece *piece_out)
{
    KD_CHECK(spec->dtype == KD_SAFETENSORS_F32 || spec->dtype == KD_SAFETENSORS_BF16);
    piece_out->dtype = spec->dtype;
    piece_out->n_elements = piece_out->n_left = count_elements(spec);
    piece_out->name = strdup(spec->name);
    return piece_out->name != NULL;
}

static kd_safetensors_writer *allocate(const kd_safetensors_spec *specs, size_t n_specs)
{
    kd_safetensors_writer *writer = calloc(1, sizeof *writer);
    if (writer == NULL) {
        return NULL;
    }
    writer->file.fd = -1;
    writer->pieces = calloc(n_specs + 1, sizeof *writer->pieces);
    writer->n_pieces = writer->pieces != NULL ? n_specs : 0;
    bool whole = writer->pieces != NULL;
    for (size_t i = 0; i < n_specs && whole; i++) {
        whole = describe_piece(&specs[i], &writer->pieces[i]);
    }
    if (!whole) {
        release(writer);
        return NULL;
    }
    skip_written(writer);
    return writer;
}

kd_status kd_safetensors_create(const char *path,
                                const kd_safetensors_spec *specs,
                                size_t n_specs,
                                kd_safetensors_writer **writer_out)
{
    kd_text header = {0};
    kd_safetensors_writer *writer = allocate(specs, n_specs);
    if (writer == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to write %s", path);
    }
    kd_status st = make_header(specs, n_specs, &header);
    if (st) {
        goto err_abandon;
    }
    st = kd_writer_open(&writer->file, path, 0644);
    if (st) {
        goto err_abandon;
    }
    st = kd_writer_add(&writer->file, header.data, header.size);
    if (st) {
        goto err_abandon;
    }
    kd_text_release(&header);
    *writer_out = writer;
    return KD_OK;

err_abandon:
    kd_text_release(&header);
    kd_safetensors_abandon(writer);
    return st;
}

static kd_status write_bf16(kd_writer *file, const float *values, int64_t n)
{
    uint16_t halves[CHUNK];
    kd_status st = KD_OK;

    for (int64_t at = 0; at < n && !st; at += CHUNK) {
        const int64_t count = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t i = 0; i < count; i++) {
            halves[i] = kd_bf16_from_f32(values[at + i]);
        }
        st = kd_writer_add(file, halves, (size_t)count * sizeof *halves);
    }
    return st;
}

kd_status kd_safetensors_write_f32(kd_safetensors_writer *writer, const float *values, int64_t n)
{
    if (n == 0) {
        return KD_OK;
    }
    KD_CHECK(n > 0 && writer->current < writer->n_pieces);
    piece *p = &writer->pieces[writer->current];
    KD_CHECK(n <= p->n_left);
    const kd_status st = p->dtype == KD_SAFETENSORS_BF16
                             ? write_bf16(&writer->file, values, n)
                             : kd_writer_add(&writer->file, values, (size_t)n * sizeof *values);
    if (st) {
        return st;
    }
    p->n_left -= n;
    skip_written(writer);
    return KD_OK;
}

/* Without a branch for each value, so that it becomes vectors: weights are looked at as they pass by. */
static bool all_below(uint32_t limit, const float *values, int64_t n)
{
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (kd_float_bits){.value = values[i]}.bits & SIGN_MASK;
        largest = bits > largest ? bits : largest;
    }
    return largest < limit;
}

static kd_status
fail_not_finite(const kd_safetensors_writer *writer, uint32_t limit, const float *values)
{
    const piece *p = &writer->pieces[writer->current];
    int64_t i = 0;
    while (all_below(limit, &values[i], 1)) {
        i++;
    }
    return kd_fail(KD_ERR_INVALID,
                   "%s: element %lld of tensor \"%s\" is %s in %s, expected a number: not written",
                   writer->file.path, (long long)(p->n_elements - p->n_left + i), p->name,
                   isnan(values[i]) ? "not a number" : "infinite",
                   kd_safetensors_dtype_name(p->dtype));
}

kd_status
kd_safetensors_write_weights(kd_safetensors_writer *writer, const float *values, int64_t n)
{
    if (n > 0) {
        KD_CHECK(writer->current < writer->n_pieces);
        const uint32_t limit = writer->pieces[writer->current].dtype == KD_SAFETENSORS_BF16
                                   ? BF16_TOO_LARGE
                                   : F32_TOO_LARGE;
        if (!all_below(limit, values, n)) {
            return fail_not_finite(writer, limit, values);
        }
    }
    return kd_safetensors_write_f32(writer, values, n);
}

kd_status kd_safetensors_commit(kd_safetensors_writer *writer)
{
    KD_CHECK(writer->current == writer->n_pieces);
    const kd_status st = kd_writer_commit(&writer->file);
    release(writer);
    return st;
}

void kd_safetensors_abandon(kd_safetensors_writer *writer)
{
    if (writer == NULL) {
        return;
    }
    kd_writer_abandon(&writer->file);
    release(writer);
}
