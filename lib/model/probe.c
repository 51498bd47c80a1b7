/*
 * probe.c - a small mixture of its own: the chosen rows are gathered, dispatched to segments of
 * experts, and run with the layer's weights. Where a backward pass is under way, the gradient of the
 * rows waits until the layer has formed the gradient that it joins.
 */
#include "model/probe.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/decoder_state.h"
#include "model/weight.h"

struct kd_probe {
    kd_decoder *decoder;
    int64_t max_rows, n_experts;
    kd_probe *next; /* among those whose gradient waits */

    /* Host copies of the route, until the queue has read them. */
    int32_t *position, *token, *offset;

    /* With room for max_rows; the views below have the sizes of the last forward. */
    void *slab;
    size_t slab_bytes;
    int64_t layer;
    int64_t n_rows;
    kd_tensor rows;     /* (M) i32                       */
    kd_tensor x32;      /* (M, C) f32, gathered          */
    kd_tensor x;        /* (M, C) compute                */
    kd_route route;     /* position, token and offset    */
    kd_tensor in;       /* (R, C) compute                */
    kd_tensor gate_up;  /* (R, 2 F) compute              */
    kd_tensor hidden;   /* (R, F) compute                */
    kd_tensor out;      /* (R, C) compute                */
    kd_tensor gradient; /* (R, C) compute: of out, then of in; the rest only in training */
    kd_tensor d_hidden;
    kd_tensor d_gate_up;
};

static int64_t most_routed_rows(const kd_probe *p)
{
    return kd_expert_rows(p->decoder->pass.be, p->max_rows, p->n_experts,
                          p->decoder->params->config.n_experts);
}

/* For n_rows rows that take n_routed rows of segments; at most what fits the slab. */
static void lay_out(kd_probe *p, kd_arena *arena, int64_t n_rows, int64_t n_routed)
{
    const kd_model_config *c = &p->decoder->params->config;
    const kd_dtype compute = p->decoder->pass.be->compute;
    const int64_t width = c->hidden_size, inner = c->intermediate_size;

    p->n_rows = n_rows;
    p->rows = kd_tensor_carve_1d(arena, KD_I32, n_rows);
    p->x32 = kd_tensor_carve_2d(arena, KD_F32, n_rows, width);
    p->x = kd_tensor_carve_2d(arena, compute, n_rows, width);
    p->route.position = kd_tensor_carve_2d(arena, KD_I32, n_rows, p->n_experts);
    p->route.token = kd_tensor_carve_1d(arena, KD_I32, n_routed);
    p->route.offset = kd_tensor_carve_1d(arena, KD_I32, c->n_experts + 1);
    p->in = kd_tensor_carve_2d(arena, compute, n_routed, width);
    p->gate_up = kd_tensor_carve_2d(arena, compute, n_routed, 2 * inner);
    p->hidden = kd_tensor_carve_2d(arena, compute, n_routed, inner);
    p->out = kd_tensor_carve_2d(arena, compute, n_routed, width);
    if (p->decoder->settings.train) {
        p->gradient = kd_tensor_carve_2d(arena, compute, n_routed, width);
        p->d_hidden = kd_tensor_carve_2d(arena, compute, n_routed, inner);
        p->d_gate_up = kd_tensor_carve_2d(arena, compute, n_routed, 2 * inner);
    }
}

static kd_status allocate(kd_probe *p)
{
    kd_backend *be = p->decoder->pass.be;
    const int64_t n_routed = most_routed_rows(p);
    kd_arena arena = {0};

    lay_out(p, &arena, p->max_rows, n_routed);
    p->slab_bytes = arena.used;
    const kd_status st = kd_backend_place(be, KD_MEMORY_DEVICE, p->slab_bytes, &p->slab,
                                          "outputs of %lld experts for %lld rows",
                                          (long long)p->n_experts, (long long)p->max_rows);
    if (st) {
        return st;
    }
    p->position = calloc((size_t)(p->max_rows * p->n_experts), sizeof *p->position);
    p->token = calloc((size_t)n_routed, sizeof *p->token);
    p->offset = calloc((size_t)p->decoder->params->config.n_experts + 1, sizeof *p->offset);
    if (p->position == NULL || p->token == NULL || p->offset == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to probe %lld rows", (long long)p->max_rows);
    }
    return KD_OK;
}

kd_status
kd_probe_create(kd_decoder *decoder, int64_t max_rows, int64_t n_experts, kd_probe **probe_out)
{
    KD_CHECK(max_rows >= 1 && n_experts >= 1 && n_experts <= decoder->params->config.n_experts);
    KD_CHECK(max_rows <= KD_ROUTED_ROWS_MAX / n_experts);
    kd_probe *p = calloc(1, sizeof *p);
    if (p == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a probe of experts");
    }
    p->decoder = decoder;
    p->max_rows = max_rows;
    p->n_experts = n_experts;
    const kd_status st = allocate(p);
    if (st) {
        kd_probe_destroy(p);
        return st;
    }
    *probe_out = p;
    return KD_OK;
}

void kd_probe_destroy(kd_probe *probe)
{
    if (probe == NULL) {
        return;
    }
    kd_backend *be = probe->decoder->pass.be;
    if (probe->slab != NULL) {
        be->ops->free(be, probe->slab);
    }
    free(probe->position);
    free(probe->token);
    free(probe->offset);
    free(probe);
}

/* Segments of experts, begun at multiples of the tile; returns the rows of all of them. */
static int64_t lay_out_segments(kd_probe *p, const int32_t *experts, int64_t n_pairs)
{
    const int64_t n_experts = p->decoder->params->config.n_experts;
    const int32_t tile = (int32_t)p->decoder->pass.be->expert_tile;
    int32_t next[KD_EXPERTS_MAX] = {0}; /* first how many, then where the next one goes */
    int32_t end = 0;

    for (int64_t i = 0; i < n_pairs; i++) {
        KD_CHECK(experts[i] >= 0 && experts[i] < n_experts);
        next[experts[i]]++;
    }
    for (int64_t e = 0; e < n_experts; e++) {
        const int32_t n_tiles = (next[e] + tile - 1) / tile;
        p->offset[e] = next[e] = end;
        end += n_tiles * tile;
    }
    p->offset[n_experts] = end;
    for (int64_t r = 0; r < end; r++) {
        p->token[r] = -1;
    }
    for (int64_t i = 0; i < n_pairs; i++) {
        p->position[i] = next[experts[i]]++;
        p->token[p->position[i]] = (int32_t)(i / p->n_experts);
    }
    return end;
}

static void upload(kd_probe *p, const int32_t *rows)
{
    kd_backend *be = p->decoder->pass.be;
    be->ops->upload(be, p->rows, rows);
    be->ops->upload(be, p->route.position, p->position);
    be->ops->upload(be, p->route.token, p->token);
    be->ops->upload(be, p->route.offset, p->offset);
}

void kd_experts_probe_forward(kd_probe *p,
                              int64_t layer,
                              const int32_t *rows,
                              const int32_t *experts,
                              int64_t n_rows)
{
    kd_backend *be = p->decoder->pass.be;
    const kd_ops *ops = be->ops;
    const kd_moe_weights *weights = &p->decoder->layers[layer].moe;
    const kd_layer_acts *acts = kd_decoder_acts(p->decoder, layer);
    kd_arena arena;

    KD_CHECK(n_rows >= 1 && n_rows <= p->max_rows);
    p->layer = layer;
    const int64_t n_routed = lay_out_segments(p, experts, n_rows * p->n_experts);
    kd_arena_init(&arena, p->slab, p->slab_bytes);
    lay_out(p, &arena, n_rows, n_routed);
    upload(p, rows);
    ops->embed(be, p->x32, acts->moe.normed, p->rows);
    ops->copy(be, p->x, p->x32);
    ops->dispatch(be, p->in, p->x, &p->route);
    ops->experts(be, p->gate_up, p->in, weights->gate_up.value, &p->route);
    ops->swiglu(be, p->hidden, p->gate_up);
    ops->experts(be, p->out, p->hidden, weights->down.value, &p->route);
}

const kd_route *kd_probe_route(const kd_probe *probe)
{
    return &probe->route;
}

kd_tensor kd_probe_out(const kd_probe *probe)
{
    return probe->out;
}

kd_tensor kd_probe_gradient(const kd_probe *probe)
{
    return probe->gradient;
}

void kd_experts_probe_backward(kd_probe *p)
{
    kd_backend *be = p->decoder->pass.be;
    const kd_ops *ops = be->ops;
    const kd_moe_weights *weights = &p->decoder->layers[p->layer].moe;

    KD_CHECK(p->decoder->settings.train);
    kd_weight_experts_grad(be, weights->down, p->gradient, p->hidden, &p->route);
    ops->experts_backward_x(be, p->d_hidden, p->gradient, weights->down.value, &p->route);
    ops->swiglu_backward(be, p->d_gate_up, p->d_hidden, p->gate_up);
    kd_weight_experts_grad(be, weights->gate_up, p->d_gate_up, p->in, &p->route);
    ops->experts_backward_x(be, p->gradient, p->d_gate_up, weights->gate_up.value, &p->route);
    ops->dispatch_backward(be, p->x, p->gradient, &p->route); /* x was read for the last time */
    ops->copy(be, p->x32, p->x);
    p->next = p->decoder->probes;
    p->decoder->probes = p;
}

void kd_probes_join(kd_probe **probes, int64_t layer, kd_tensor d_normed)
{
    for (kd_probe *p = *probes; p != NULL; p = p->next) {
        kd_backend *be = p->decoder->pass.be;
        KD_CHECK(p->layer == layer);
        be->ops->embed_backward(be, d_normed, p->x32, p->rows, true);
    }
    *probes = NULL;
}
