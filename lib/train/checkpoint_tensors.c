#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "format/safetensors.h"
#include "train/checkpoint_file.h"

enum {
    CHUNK = 1 << 18, /* values that are on the host at a time: 1 MiB */
    NAME_BYTES = 64,
};

/* The three slabs of training, all of the flat numbering. */
typedef enum slab { SLAB_MASTER, SLAB_M, SLAB_V, SLAB_COUNT } slab;

/* What a transfer between the slabs and the file needs. */
typedef struct transfer {
    const kd_parameters *params;
    const kd_optimizer *optimizer;
    kd_parameters *target; /* params, when they are read from the file */
    const char *path;
    float *chunk; /* (CHUNK) */
} transfer;

static void print_name(char *name, slab which, const kd_parameter *entry)
{
    static const char *const slabs[SLAB_COUNT] = {"master", "m", "v"};
    const int n = snprintf(name, NAME_BYTES, "%s.%s.%lld", slabs[which],
                           kd_parameter_role_name(entry->role), (long long)entry->layer);
    KD_CHECK(n > 0 && n < NAME_BYTES);
}

/* Elements [first, first + n) of a slab of moments. */
static kd_tensor moments(const transfer *t, slab which, int64_t first, int64_t n)
{
    const kd_tensor whole = which == SLAB_M ? t->optimizer->m : t->optimizer->v;
    return kd_tensor_1d((float *)whole.data + first, KD_F32, n);
}

static void fetch(const transfer *t, slab which, int64_t first, int64_t n)
{
    if (which == SLAB_MASTER) {
        kd_parameters_read(t->params, first, t->chunk, n);
        return;
    }
    kd_backend *be = t->params->be;
    be->ops->download(be, t->chunk, moments(t, which, first, n));
}

static void put(const transfer *t, slab which, int64_t first, int64_t n)
{
    if (which == SLAB_MASTER) {
        kd_parameters_write(t->target, first, t->chunk, n);
        return;
    }
    kd_backend *be = t->params->be;
    be->ops->upload(be, moments(t, which, first, n), t->chunk);
}

static kd_status write_values(const transfer *t, kd_safetensors_writer *writer)
{
    for (int which = 0; which < SLAB_COUNT; which++) {
        for (int i = 0; i < t->params->n_table; i++) {
            const kd_parameter *entry = &t->params->table[i];
            for (int64_t at = 0; at < entry->n_elements; at += CHUNK) {
                const int64_t left = entry->n_elements - at;
                const int64_t n = left < CHUNK ? left : CHUNK;
                fetch(t, (slab)which, entry->offset + at, n);
                const kd_status st = kd_safetensors_write_f32(writer, t->chunk, n);
                if (st) {
                    return st;
                }
            }
        }
    }
    return kd_backend_wait(t->params->be);
}

static kd_status create_file(const transfer *t, kd_safetensors_writer **writer_out)
{
    const size_t n_table = (size_t)t->params->n_table;
    const size_t n_specs = SLAB_COUNT * n_table;
    kd_safetensors_spec *specs = calloc(n_specs, sizeof *specs);
    char(*names)[NAME_BYTES] = calloc(n_specs, sizeof *names);
    kd_status st;

    if (specs == NULL || names == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to write %s", t->path);
        goto out_free;
    }
    for (size_t i = 0; i < n_specs; i++) {
        const kd_parameter *entry = &t->params->table[i % n_table];
        print_name(names[i], (slab)(i / n_table), entry);
        specs[i] = (kd_safetensors_spec){.name = names[i],
                                         .dtype = KD_SAFETENSORS_F32,
                                         .n_dims = 1,
                                         .dims = {entry->n_elements}};
    }
    st = kd_safetensors_create(t->path, specs, n_specs, writer_out);

out_free:
    free(names);
    free(specs);
    return st;
}

static kd_status write_file(const transfer *t)
{
    kd_safetensors_writer *writer = NULL;
    kd_status st = create_file(t, &writer);
    if (st) {
        return st;
    }
    st = write_values(t, writer);
    if (st) {
        kd_safetensors_abandon(writer);
        return st;
    }
    return kd_safetensors_commit(writer);
}

static kd_status find_entry(const transfer *t,
                            const kd_safetensors *file,
                            slab which,
                            int i,
                            const kd_safetensors_entry **entry_out)
{
    const kd_parameter *parameter = &t->params->table[i];
    char name[NAME_BYTES];
    print_name(name, which, parameter);
    const kd_safetensors_entry *entry = kd_safetensors_find(file, name);

    if (entry == NULL) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: expected tensor \"%s\", found none: a checkpoint of another model",
                       t->path, name);
    }
    if (entry->n_elements != parameter->n_elements || entry->dtype != KD_SAFETENSORS_F32) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: tensor \"%s\" holds %lld values of %s, expected %lld of F32: a "
                       "checkpoint of another model",
                       t->path, name, (long long)entry->n_elements,
                       kd_safetensors_dtype_name(entry->dtype), (long long)parameter->n_elements);
    }
    *entry_out = entry;
    return KD_OK;
}

static kd_status read_values(const transfer *t, const kd_safetensors *file, slab which, int i)
{
    const kd_parameter *parameter = &t->params->table[i];
    const kd_safetensors_entry *entry = NULL;
    kd_status st = find_entry(t, file, which, i, &entry);
    if (st) {
        return st;
    }
    for (int64_t at = 0; !st && at < parameter->n_elements; at += CHUNK) {
        const int64_t left = parameter->n_elements - at;
        const int64_t n = left < CHUNK ? left : CHUNK;
        st = kd_safetensors_read_f32(entry, at, n, t->chunk);
        if (!st) {
            put(t, which, parameter->offset + at, n);
            st = kd_backend_wait(t->params->be); /* the chunk is written again */
        }
    }
    return st;
}

static kd_status read_file(const transfer *t)
{
    kd_safetensors *file;
    kd_status st = kd_safetensors_open(t->path, &file);
    if (st) {
        return st;
    }
    for (int which = 0; !st && which < SLAB_COUNT; which++) {
        for (int i = 0; !st && i < t->params->n_table; i++) {
            st = read_values(t, file, (slab)which, i);
        }
    }
    kd_safetensors_close(file);
    return st;
}

static kd_status run(transfer *t, kd_status (*with)(const transfer *))
{
    t->chunk = malloc(CHUNK * sizeof *t->chunk);
    if (t->chunk == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %s", t->path);
    }
    const kd_status st = with(t);
    free(t->chunk);
    return st;
}

kd_status kd_checkpoint_tensors_write(const char *path,
                                      const kd_parameters *params,
                                      const kd_optimizer *optimizer)
{
    transfer t = {.params = params, .optimizer = optimizer, .path = path};
    return run(&t, write_file);
}

kd_status
kd_checkpoint_tensors_read(const char *path, kd_parameters *params, kd_optimizer *optimizer)
{
    transfer t = {.params = params, .optimizer = optimizer, .target = params, .path = path};
    return run(&t, read_file);
}
