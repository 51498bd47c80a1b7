/*
 * safetensors.h - read and write the tensor files of Hugging Face.
 *
 *   8 bytes    n, little endian: size of the header
 *   n bytes    a JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]},
 *              and "__metadata__" -> an object of strings; spaces may follow
 *   the rest   the data; tensors fill it without overlap and without a hole
 *
 * A file is believed only after all of that was checked; a fault is reported with the file, the
 * tensor, what was found and what was expected:
 *   KD_ERR_NOT_FOUND, KD_ERR_IO  the file cannot be opened or read
 *   KD_ERR_PROTO                 it is not a valid safetensors file
 *   KD_ERR_INVALID               it is valid, and holds what is not supported
 *
 * An open file is a read-only mapping: nobody may shorten the file meanwhile.
 * Threads: an open file may be read by several; a writer belongs to one.
 */
#ifndef KD_FORMAT_SAFETENSORS_H
#define KD_FORMAT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define KD_SAFETENSORS_DIMS_MAX 8
/* A quarter of a million tensors; large models have tens of thousands, in many files. */
#define KD_SAFETENSORS_HEADER_BYTES_MAX (32u << 20)

typedef enum kd_safetensors_dtype {
    KD_SAFETENSORS_F64,
    KD_SAFETENSORS_F32,
    KD_SAFETENSORS_F16,
    KD_SAFETENSORS_BF16,
    KD_SAFETENSORS_I64,
    KD_SAFETENSORS_I32,
    KD_SAFETENSORS_I16,
    KD_SAFETENSORS_I8,
    KD_SAFETENSORS_U8,
    KD_SAFETENSORS_BOOL,
    KD_SAFETENSORS_DTYPE_COUNT,
} kd_safetensors_dtype;

typedef struct kd_safetensors_entry {
    const char *path; /* of its file, for messages */
    const char *name;
    kd_safetensors_dtype dtype;
    int n_dims; /* 0: a single number */
    int64_t dims[KD_SAFETENSORS_DIMS_MAX];
    int64_t n_elements;
    const uint8_t *data; /* little endian, of any alignment */
    uint64_t size_bytes;
} kd_safetensors_entry;

typedef struct kd_safetensors kd_safetensors;

const char *kd_safetensors_dtype_name(kd_safetensors_dtype dtype); /* "BF16" */
size_t kd_safetensors_dtype_bytes(kd_safetensors_dtype dtype);

KD_MUST_USE kd_status kd_safetensors_open(const char *path, kd_safetensors **file_out);

/* The same over bytes of the caller's, which must outlive it; `path` is for messages. */
KD_MUST_USE kd_status kd_safetensors_open_memory(const char *path,
                                                 const void *bytes,
                                                 size_t size_bytes,
                                                 kd_safetensors **file_out);

/* Entries and their strings go with it. NULL is fine. */
void kd_safetensors_close(kd_safetensors *file);

/* Entries in the order of their names. */
size_t kd_safetensors_count(const kd_safetensors *file);
const kd_safetensors_entry *kd_safetensors_at(const kd_safetensors *file, size_t index);

/* NULL if there is none of that name. */
const kd_safetensors_entry *kd_safetensors_find(const kd_safetensors *file, const char *name);

/*
 * Elements [first, first + n) of an F32, BF16, F16 or F64 tensor as f32; the range must lie within
 * the tensor. KD_ERR_INVALID for any other dtype.
 */
KD_MUST_USE kd_status kd_safetensors_read_f32(const kd_safetensors_entry *entry,
                                              int64_t first,
                                              int64_t n,
                                              float *out);

/*
 * Writing: all tensors are declared first, then their values follow in the same order, in pieces of
 * any size. The same declarations and values give the same bytes. The file appears under its name
 * once it is whole and on the disk (writer.h).
 */
typedef struct kd_safetensors_spec {
    const char *name;
    kd_safetensors_dtype dtype; /* F32 or BF16 */
    int n_dims;
    int64_t dims[KD_SAFETENSORS_DIMS_MAX];
} kd_safetensors_spec;

typedef struct kd_safetensors_writer kd_safetensors_writer;

/* The specs are not needed after the call. Names must be unique UTF-8, else KD_ERR_ARG. */
KD_MUST_USE kd_status kd_safetensors_create(const char *path,
                                            const kd_safetensors_spec *specs,
                                            size_t n_specs,
                                            kd_safetensors_writer **writer_out);

/* How large that file will be. */
KD_MUST_USE kd_status kd_safetensors_file_bytes(const kd_safetensors_spec *specs,
                                                size_t n_specs,
                                                uint64_t *bytes_out);

/* The next n values, none past the end of the tensor at hand; rounded to nearest even for BF16. */
KD_MUST_USE kd_status kd_safetensors_write_f32(kd_safetensors_writer *writer,
                                               const float *values,
                                               int64_t n);

/*
 * The same of values that training is to go on from, or that a model computes with: one that is not
 * finite as the file would hold it is KD_ERR_INVALID, which names file, tensor and element.
 */
KD_MUST_USE kd_status kd_safetensors_write_weights(kd_safetensors_writer *writer,
                                                   const float *values,
                                                   int64_t n);

/* After the last value. Frees the writer, also when it fails; then the file is as it was before. */
KD_MUST_USE kd_status kd_safetensors_commit(kd_safetensors_writer *writer);

/* Frees the writer and leaves the file as it was before. NULL is fine. */
void kd_safetensors_abandon(kd_safetensors_writer *writer);

#endif
