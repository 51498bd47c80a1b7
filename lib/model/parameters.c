/*
 * parameters.c - one numbering, matrices first, for masters, gradients and moments: whoever sums, clips or
 * saves goes over flat arrays. For inference the masters are left out, and values pass a small stage, so
 * that loading never holds a model twice.
 */
#include "model/parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"

_Static_assert(KD_MODEL_EXPERTS_MAX <= KD_EXPERTS_MAX, "a shape that passes its check can be run");

#define INIT_DEVIATION 0.02

enum { CHUNK_ELEMENTS = 1 << 16 }; /* host values are moved in pieces of this many */

/* ---- the table ---- */

static int64_t align_up(int64_t n)
{
    return (n + KD_PARAM_ALIGN - 1) / KD_PARAM_ALIGN * KD_PARAM_ALIGN;
}

/* Appends those entries that are vectors, or matrices, as asked, and numbers their elements. */
static void append(kd_parameters *p, const kd_parameter *entries, size_t n, bool vectors)
{
    for (size_t i = 0; i < n; i++) {
        if ((entries[i].n_dims == 1) != vectors) {
            continue;
        }
        kd_parameter *entry = &p->table[p->n_table++];
        *entry = entries[i];
        entry->offset = p->n_elements;
        entry->n_elements = entry->dims[0] * entry->dims[1] * entry->dims[2];
        p->n_elements += align_up(entry->n_elements);
    }
}

static kd_status lay_out_table(kd_parameters *p, const kd_parameter *entries, size_t n)
{
    p->table = calloc(n, sizeof *p->table);
    if (p->table == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a table of %zu parameters", n);
    }
    append(p, entries, n, false);
    p->n_matrix = p->n_elements;
    append(p, entries, n, true);
    return KD_OK;
}

/* ---- the slabs ---- */

/* Elements [first, first + n) of a flat tensor. */
static kd_tensor range(kd_tensor flat, int64_t first, int64_t n)
{
    KD_CHECK(first >= 0 && n >= 0 && first + n <= kd_tensor_elements(flat));
    uint8_t *data = flat.data;
    return kd_tensor_1d(data + (size_t)first * kd_dtype_bytes(flat.dtype), flat.dtype, n);
}

static void lay_out_slabs(kd_parameters *p, kd_arena *arena)
{
    const kd_dtype compute = p->be->compute;
    const int64_t n_vectors = p->n_elements - p->n_matrix;

    if (p->use == KD_PARAMS_INFER) {
        p->compute = kd_tensor_carve_1d(arena, compute, p->n_matrix);
        p->vectors = kd_tensor_carve_1d(arena, KD_F32, n_vectors);
        if (compute != KD_F32) {
            p->stage = kd_tensor_carve_1d(arena, KD_F32, CHUNK_ELEMENTS);
        }
        return;
    }
    p->master = kd_tensor_carve_1d(arena, KD_F32, p->n_elements);
    p->grad = kd_tensor_carve_1d(arena, KD_F32, p->n_elements);
    if (compute != KD_F32) {
        p->compute = kd_tensor_carve_1d(arena, compute, p->n_matrix);
    }
    if (arena->base != NULL) {
        p->vectors = range(p->master, p->n_matrix, n_vectors);
        if (compute == KD_F32) {
            p->compute = range(p->master, 0, p->n_matrix);
        }
    }
}

static kd_status allocate_slabs(kd_parameters *p)
{
    kd_arena arena = {0};

    lay_out_slabs(p, &arena);
    const size_t size_bytes = arena.used;
    const kd_status st = kd_backend_place(p->be, KD_MEMORY_DEVICE, size_bytes, &p->slab,
                                          "%lld parameters%s", (long long)p->n_elements,
                                          p->use == KD_PARAMS_TRAIN ? " and their gradients" : "");
    if (st) {
        return st;
    }
    kd_arena_init(&arena, p->slab, size_bytes);
    lay_out_slabs(p, &arena);
    return KD_OK;
}

kd_status kd_parameters_create_table(kd_backend *be,
                                     const kd_parameter *entries,
                                     size_t n,
                                     kd_parameter_use use,
                                     kd_parameters **params_out)
{
    KD_CHECK(n > 0);
    kd_parameters *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a table of parameters");
    }
    p->be = be;
    p->use = use;
    kd_status st = lay_out_table(p, entries, n);
    if (!st) {
        st = allocate_slabs(p);
    }
    if (st) {
        kd_parameters_destroy(p);
        return st;
    }
    *params_out = p;
    return KD_OK;
}

void kd_parameters_destroy(kd_parameters *params)
{
    if (params == NULL) {
        return;
    }
    if (params->slab != NULL) {
        params->be->ops->free(params->be, params->slab);
    }
    free(params->source_config);
    free(params->table);
    free(params);
}

kd_parameters_memory kd_parameters_memory_of(const kd_parameters *p)
{
    const bool train = p->use == KD_PARAMS_TRAIN;
    kd_parameters_memory memory = {
        .master_bytes = kd_tensor_bytes(p->master),
        .gradient_bytes = kd_tensor_bytes(p->grad),
        .stage_bytes = kd_tensor_bytes(p->stage),
    };
    if (p->compute.data != p->master.data) {
        memory.weight_bytes += kd_tensor_bytes(p->compute);
    }
    if (!train) { /* in training they are the master's tail */
        memory.weight_bytes += kd_tensor_bytes(p->vectors);
    }
    return memory;
}

/* ---- looking up ---- */

const kd_parameter *
kd_parameters_find(const kd_parameters *params, kd_parameter_role role, int64_t layer)
{
    for (int i = 0; i < params->n_table; i++) {
        if (params->table[i].role == role && params->table[i].layer == layer) {
            return &params->table[i];
        }
    }
    return NULL;
}

/* Elements of a flat tensor from `first` on, in the entry's shape. */
static kd_tensor in_shape(kd_tensor flat, int64_t first, const kd_parameter *entry)
{
    void *data = range(flat, first, entry->n_elements).data;
    const int64_t *dims = entry->dims;

    if (entry->n_dims == 1) {
        return kd_tensor_1d(data, flat.dtype, dims[0]);
    }
    if (entry->n_dims == 2) {
        return kd_tensor_2d(data, flat.dtype, dims[0], dims[1]);
    }
    return kd_tensor_3d(data, flat.dtype, dims[0], dims[1], dims[2]);
}

kd_tensor kd_parameters_value(const kd_parameters *params, const kd_parameter *entry)
{
    if (entry->n_dims == 1) {
        return in_shape(params->vectors, entry->offset - params->n_matrix, entry);
    }
    return in_shape(params->compute, entry->offset, entry);
}

kd_tensor kd_parameters_grad(const kd_parameters *params, const kd_parameter *entry)
{
    return in_shape(params->grad, entry->offset, entry);
}

kd_weight kd_parameters_weight(const kd_parameters *params, kd_parameter_role role, int64_t layer)
{
    kd_weight weight = {.value = kd_tensor_none(), .grad = kd_tensor_none()};
    const kd_parameter *entry = kd_parameters_find(params, role, layer);

    if (entry != NULL) {
        weight.written = &params->table[entry - params->table].written;
        weight.value = kd_parameters_value(params, entry);
        if (params->use == KD_PARAMS_TRAIN) {
            weight.grad = kd_parameters_grad(params, entry);
        }
    }
    return weight;
}

void kd_parameters_clear_grad(kd_parameters *params)
{
    for (int i = 0; i < params->n_table; i++) {
        params->table[i].written = false;
    }
}

void kd_parameters_settle_grad(kd_parameters *params)
{
    for (int i = 0; i < params->n_table && params->use == KD_PARAMS_TRAIN; i++) {
        kd_parameter *entry = &params->table[i];
        if (!entry->written) {
            params->be->ops->zero(params->be, kd_parameters_grad(params, entry));
            entry->written = true;
        }
    }
}

/* ---- values ---- */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The piece at `first` that lies on one side of the matrices' end and fits the stage. */
static int64_t piece_elements(const kd_parameters *p, int64_t first, int64_t n)
{
    const int64_t side = first < p->n_matrix ? p->n_matrix : p->n_elements;
    return smaller(smaller(n, side - first), CHUNK_ELEMENTS);
}

/* The inference slab's tensor for a piece; it needs the stage if it is not f32. */
static kd_tensor piece(const kd_parameters *p, int64_t first, int64_t n)
{
    if (first < p->n_matrix) {
        return range(p->compute, first, n);
    }
    return range(p->vectors, first - p->n_matrix, n);
}

static void write_inference(kd_parameters *p, int64_t first, const float *values, int64_t n)
{
    const kd_ops *ops = p->be->ops;

    while (n > 0) {
        const int64_t n_piece = piece_elements(p, first, n);
        const kd_tensor dst = piece(p, first, n_piece);
        if (dst.dtype == KD_F32) {
            ops->upload(p->be, dst, values);
        } else {
            const kd_tensor staged = range(p->stage, 0, n_piece);
            ops->upload(p->be, staged, values);
            ops->copy(p->be, dst, staged);
        }
        first += n_piece;
        values += n_piece;
        n -= n_piece;
    }
}

void kd_parameters_write(kd_parameters *params, int64_t first, const float *values, int64_t n)
{
    KD_CHECK(first >= 0 && n >= 0 && first + n <= params->n_elements);
    const kd_ops *ops = params->be->ops;

    if (params->use == KD_PARAMS_INFER) {
        write_inference(params, first, values, n);
    } else {
        ops->upload(params->be, range(params->master, first, n), values);
        const int64_t n_matrix = smaller(n, params->n_matrix - first);
        if (n_matrix > 0 && params->compute.data != params->master.data) {
            ops->copy(params->be, range(params->compute, first, n_matrix),
                      range(params->master, first, n_matrix));
        }
    }
}

void kd_parameters_read(const kd_parameters *params, int64_t first, float *values, int64_t n)
{
    KD_CHECK(first >= 0 && n >= 0 && first + n <= params->n_elements);
    const kd_ops *ops = params->be->ops;

    if (params->use == KD_PARAMS_TRAIN) {
        ops->download(params->be, values, range(params->master, first, n));
        return;
    }
    while (n > 0) {
        const int64_t n_piece = piece_elements(params, first, n);
        kd_tensor src = piece(params, first, n_piece);
        if (src.dtype != KD_F32) {
            const kd_tensor staged = range(params->stage, 0, n_piece);
            ops->copy(params->be, staged, src);
            src = staged;
        }
        ops->download(params->be, values, src);
        first += n_piece;
        values += n_piece;
        n -= n_piece;
    }
}

/* ---- start values ---- */

static bool writes_residual(kd_parameter_role role)
{
    return role == KD_PARAM_ATTENTION_OUT || role == KD_PARAM_DOWN || role == KD_PARAM_SHARED_DOWN;
}

/* Fills chunk with the entry's elements [first, first + n); a value asks for none of its neighbours. */
static void start_values(const kd_parameter *entry,
                         uint64_t key,
                         double scale,
                         int64_t first,
                         float *chunk,
                         int64_t n,
                         int n_threads)
{
    const float constant = entry->role == KD_PARAM_QKV_BIAS ? 0.0f : 1.0f;

#pragma omp parallel for num_threads(n_threads) schedule(dynamic, 1024)
    for (int64_t i = 0; i < n; i++) {
        chunk[i] = entry->n_dims == 1 ? constant
                                      : (float)(scale * kd_rng_normal(key, (uint64_t)(first + i)));
    }
}

static kd_status
init_entry(kd_parameters *p, const kd_parameter *entry, uint64_t seed, float *chunk)
{
    const uint64_t role_key = kd_rng_key(seed, kd_parameter_role_name(entry->role));
    const uint64_t key = kd_rng_u64(role_key, (uint64_t)entry->layer);
    const double depth =
        writes_residual(entry->role) ? sqrt(2.0 * (double)p->config.n_layers) : 1.0;

    for (int64_t first = 0; first < entry->n_elements; first += CHUNK_ELEMENTS) {
        const int64_t n = smaller(entry->n_elements - first, CHUNK_ELEMENTS);
        start_values(entry, key, INIT_DEVIATION / depth, first, chunk, n, p->be->n_threads);
        kd_parameters_write(p, entry->offset + first, chunk, n);
        const kd_status st = kd_progress_go_on();
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

kd_status kd_parameters_init(kd_parameters *params, uint64_t seed)
{
    float *chunk = malloc(CHUNK_ELEMENTS * sizeof *chunk);
    if (chunk == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d start values", CHUNK_ELEMENTS);
    }
    kd_status st = KD_OK;
    for (int i = 0; i < params->n_table && !st; i++) {
        st = init_entry(params, &params->table[i], seed, chunk);
    }
    free(chunk);
    const kd_status done = kd_backend_wait(params->be);
    return st ? st : done;
}
