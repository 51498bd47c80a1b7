/*
 * checkpoint_tensors.c - masters and moments by name, not as slabs: a later version may number them
 * otherwise. Values pass through one buffer, so a save needs no second model in memory.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "format/safetensors.h"
#include "train/checkpoint_file.h"

enum {
    CHUNK = 1 << 18, /* values that are on the host at a time: 1 MiB */
    NAME_BYTES = 64,
};

/* The three slabs of a trained group, all of its flat numbering. */
typedef enum slab { SLAB_MASTER, SLAB_M, SLAB_V, SLAB_COUNT } slab;

/* What a transfer between the slabs and the file needs. */
typedef struct transfer {
    const kd_optimizer *optimizer;
    const char *path;
    float *chunk; /* (CHUNK) */
} transfer;

/* One tensor of the file: a parameter of a trained group, in one of its slabs. */
typedef struct place {
    int group;
    slab which;
    const kd_parameter *entry;
} place;

/* The place after p, in the file's order; begins after {.group = -1}. False: there is none. */
static bool next_place(const kd_optimizer *o, place *p)
{
    if (p->group >= 0) {
        const kd_parameters *params = o->groups[p->group].params;
        if (++p->entry < params->table + params->n_table) {
            return true;
        }
        p->entry = params->table;
        if (++p->which < SLAB_COUNT) {
            return true;
        }
    }
    do {
        p->group++;
    } while (p->group < o->n_groups && !kd_group_trained(&o->groups[p->group]));
    if (p->group == o->n_groups) {
        return false;
    }
    p->which = SLAB_MASTER;
    p->entry = o->groups[p->group].params->table;
    return true;
}

static void print_name(char *name, const place *p)
{
    static const char *const slabs[SLAB_COUNT] = {"master", "m", "v"};
    const int n = snprintf(name, NAME_BYTES, "%s.%s", slabs[p->which], p->entry->name);
    KD_CHECK(n > 0 && n < NAME_BYTES);
}

/* Elements [at, at + n) of a parameter's moments. */
static kd_tensor moments(const transfer *t, const place *p, int64_t at, int64_t n)
{
    const kd_moments *of = &t->optimizer->moments[p->group];
    const kd_tensor whole = p->which == SLAB_M ? of->m : of->v;
    return kd_tensor_1d((float *)whole.data + p->entry->offset + at, KD_F32, n);
}

static void fetch(const transfer *t, const place *p, int64_t at, int64_t n)
{
    if (p->which == SLAB_MASTER) {
        kd_parameters_read(t->optimizer->groups[p->group].params, p->entry->offset + at, t->chunk,
                           n);
        return;
    }
    kd_backend *be = t->optimizer->be;
    be->ops->download(be, t->chunk, moments(t, p, at, n));
}

static void put(const transfer *t, const place *p, int64_t at, int64_t n)
{
    if (p->which == SLAB_MASTER) {
        kd_parameters_write(t->optimizer->groups[p->group].params, p->entry->offset + at, t->chunk,
                            n);
        return;
    }
    kd_backend *be = t->optimizer->be;
    be->ops->upload(be, moments(t, p, at, n), t->chunk);
}

static kd_status write_place(const transfer *t, kd_safetensors_writer *writer, const place *p)
{
    for (int64_t at = 0; at < p->entry->n_elements; at += CHUNK) {
        const int64_t left = p->entry->n_elements - at;
        const int64_t n = left < CHUNK ? left : CHUNK;
        fetch(t, p, at, n);
        kd_status st = kd_backend_wait(t->optimizer->be); /* else the chunk holds anything */
        if (!st) {
            st = kd_safetensors_write_weights(writer, t->chunk, n);
        }
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status write_values(const transfer *t, kd_safetensors_writer *writer)
{
    place p = {.group = -1};
    while (next_place(t->optimizer, &p)) {
        const kd_status st = write_place(t, writer, &p);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

/* What the file holds. */
typedef struct listing {
    kd_safetensors_spec *specs; /* owned, as are their names */
    char (*names)[NAME_BYTES];
    size_t n;
} listing;

static void listing_release(listing *list)
{
    free(list->names);
    free(list->specs);
}

static kd_status list_specs(const kd_optimizer *optimizer, listing *list_out)
{
    listing list = {0};
    place p = {.group = -1};
    while (next_place(optimizer, &p)) {
        list.n++;
    }
    KD_CHECK(list.n > 0);
    list.specs = calloc(list.n, sizeof *list.specs);
    list.names = calloc(list.n, sizeof *list.names);
    if (list.specs == NULL || list.names == NULL) {
        listing_release(&list);
        return kd_fail(KD_ERR_NOMEM, "no memory to list %zu tensors", list.n);
    }
    p = (place){.group = -1};
    for (size_t i = 0; next_place(optimizer, &p); i++) {
        print_name(list.names[i], &p);
        list.specs[i] = (kd_safetensors_spec){.name = list.names[i],
                                              .dtype = KD_SAFETENSORS_F32,
                                              .n_dims = 1,
                                              .dims = {p.entry->n_elements}};
    }
    *list_out = list;
    return KD_OK;
}

static kd_status create_file(const transfer *t, kd_safetensors_writer **writer_out)
{
    listing list;
    kd_status st = list_specs(t->optimizer, &list);
    if (!st) {
        st = kd_safetensors_create(t->path, list.specs, list.n, writer_out);
        listing_release(&list);
    }
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
                            const place *p,
                            const kd_safetensors_entry **entry_out)
{
    char name[NAME_BYTES];
    print_name(name, p);
    const kd_safetensors_entry *entry = kd_safetensors_find(file, name);

    if (entry == NULL) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: expected tensor \"%s\", found none: a checkpoint of another model",
                       t->path, name);
    }
    if (entry->n_elements != p->entry->n_elements || entry->dtype != KD_SAFETENSORS_F32) {
        return kd_fail(KD_ERR_INVALID,
                       "%s: tensor \"%s\" holds %lld values of %s, expected %lld of F32: a "
                       "checkpoint of another model",
                       t->path, name, (long long)entry->n_elements,
                       kd_safetensors_dtype_name(entry->dtype), (long long)p->entry->n_elements);
    }
    *entry_out = entry;
    return KD_OK;
}

static kd_status read_place(const transfer *t, const kd_safetensors *file, const place *p)
{
    const kd_safetensors_entry *entry = NULL;
    kd_status st = find_entry(t, file, p, &entry);
    if (st) {
        return st;
    }
    for (int64_t at = 0; !st && at < p->entry->n_elements; at += CHUNK) {
        const int64_t left = p->entry->n_elements - at;
        const int64_t n = left < CHUNK ? left : CHUNK;
        st = kd_safetensors_read_f32(entry, at, n, t->chunk);
        if (!st) {
            put(t, p, at, n);
        }
    }
    return st;
}

static kd_status read_file(const transfer *t)
{
    place p = {.group = -1};
    kd_safetensors *file;
    kd_status st = kd_safetensors_open(t->path, &file);
    if (st) {
        return st;
    }
    while (!st && next_place(t->optimizer, &p)) {
        st = read_place(t, file, &p);
    }
    kd_safetensors_close(file);
    return st ? st : kd_backend_wait(t->optimizer->be);
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

kd_status kd_checkpoint_tensors_write(const char *path, const kd_optimizer *optimizer)
{
    transfer t = {.optimizer = optimizer, .path = path};
    return run(&t, write_file);
}

kd_status kd_checkpoint_tensors_read(const char *path, kd_optimizer *optimizer)
{
    transfer t = {.optimizer = optimizer, .path = path};
    return run(&t, read_file);
}

kd_status kd_checkpoint_tensors_bytes(const kd_optimizer *optimizer, uint64_t *bytes_out)
{
    listing list;
    kd_status st = list_specs(optimizer, &list);
    if (!st) {
        st = kd_safetensors_file_bytes(list.specs, list.n, bytes_out);
        listing_release(&list);
    }
    return st;
}
