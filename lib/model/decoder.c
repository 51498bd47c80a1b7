/*
 * decoder.c - lays out a model's activations in one slab and runs its layers. The layout is a function of
 * n_batch alone and never grows when that falls, so a smaller batch is laid out anew in the same memory,
 * and a step allocates nothing.
 */
#include "model/decoder.h"

#include <math.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/progress.h"
#include "model/decoder_state.h"
#include "model/weight.h"

static int64_t n_acts(const kd_decoder *d)
{
    return d->settings.train ? d->params->config.n_layers : 1;
}

/* ---- the slab ---- */

/*
 * Carves everything for pass.n_batch sequences. What keeps its values from pass to pass comes
 * first, in sizes that do not depend on n_batch, so that it stays where it is.
 */
static void lay_out(kd_decoder *d, kd_arena *arena)
{
    const kd_model_config *c = &d->params->config;
    kd_pass *pass = &d->pass;
    const kd_dtype compute = pass->be->compute;

    pass->n_rows = pass->n_batch * pass->n_tokens;
    pass->rope = kd_tensor_carve_2d(arena, KD_F32, pass->n_tokens, c->head_dim);

    d->tokens = kd_tensor_carve_1d(arena, KD_I32, pass->n_rows);
    d->positions = kd_tensor_carve_1d(arena, KD_I32, pass->n_rows);
    d->segments = kd_tensor_carve_1d(arena, KD_I32, pass->n_rows);
    d->x = kd_tensor_carve_2d(arena, KD_F32, pass->n_rows, c->hidden_size);
    d->rstd = kd_tensor_carve_1d(arena, KD_F32, pass->n_rows);
    d->hidden = kd_tensor_carve_2d(arena, compute, pass->n_rows, c->hidden_size);
    pass->delta = kd_tensor_carve_2d(arena, pass->be->delta, pass->n_rows, c->hidden_size);
    if (pass->train) {
        pass->dx = kd_tensor_carve_2d(arena, KD_F32, pass->n_rows, c->hidden_size);
    }
    for (int64_t i = 0; i < n_acts(d); i++) {
        kd_layer_acts_layout(&d->acts[i], pass, arena);
    }
    kd_layer_grads_layout(&d->grads, pass, arena);
}

/* A kept key has room for max_batch; the slab holds one for each layer that is listened to. */
static void lay_out_keys(kd_decoder *d, kd_arena *arena)
{
    const kd_model_config *c = &d->params->config;
    const int64_t n_rows = d->settings.max_batch * d->settings.n_tokens;

    for (int64_t l = 0; d->settings.train && l < c->n_layers; l++) {
        kd_tensor *key = &d->acts[l].attention.key;
        *key = kd_tensor_none();
        if (kd_tap_is_wanted(&d->pass, KD_TAP_KEY, l)) {
            *key =
                kd_tensor_carve_2d(arena, d->pass.be->compute, n_rows, c->n_kv_heads * c->head_dim);
            *key = kd_tensor_slice_rows(*key, 0, d->pass.n_rows);
        }
    }
}

/* No piece grows when n_batch falls, so every size up to the first fits the slab. */
static void lay_out_for(kd_decoder *d, int64_t n_batch)
{
    kd_arena arena;

    d->pass.n_batch = n_batch;
    kd_arena_init(&arena, d->slab, d->slab_bytes);
    lay_out(d, &arena);
    kd_arena_init(&arena, d->keys, d->keys_bytes);
    lay_out_keys(d, &arena);
}

static kd_status allocate_slab(kd_decoder *d)
{
    kd_arena arena = {0};

    d->pass.n_batch = d->settings.max_batch;
    lay_out(d, &arena);
    d->slab_bytes = arena.used;
    const kd_status st =
        kd_backend_place(d->pass.be, KD_MEMORY_DEVICE, d->slab_bytes, &d->slab,
                         "activations of %lld sequences of %lld tokens",
                         (long long)d->settings.max_batch, (long long)d->settings.n_tokens);
    if (!st) {
        lay_out_for(d, d->settings.max_batch);
    }
    return st;
}

/* ---- life ---- */

/* Position t turns pair i of a head by t / theta^(2 i / D) (Su et al. 2021, eq. 15). */
static void fill_rope(float *table, int64_t n_tokens, int64_t head_dim, double theta)
{
    const int64_t half = head_dim / 2;

    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t i = 0; i < half; i++) {
            const double angle = (double)t * pow(theta, -2.0 * (double)i / (double)head_dim);
            table[t * head_dim + i] = (float)cos(angle);
            table[t * head_dim + half + i] = (float)sin(angle);
        }
    }
}

static kd_status upload_rope(kd_decoder *d)
{
    const int64_t head_dim = d->params->config.head_dim;
    float *table = malloc((size_t)(d->pass.n_tokens * head_dim) * sizeof *table);

    if (table == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a rotary table of %lld positions",
                       (long long)d->pass.n_tokens);
    }
    fill_rope(table, d->pass.n_tokens, head_dim, d->params->config.rope_theta);
    d->pass.be->ops->upload(d->pass.be, d->pass.rope, table);
    free(table);
    return KD_OK;
}

static kd_status check_settings(const kd_parameters *params, const kd_decoder_settings *s)
{
    const int64_t per_token = params->config.n_experts > 0 ? params->config.experts_per_token : 1;
    const int64_t most = KD_ROUTED_ROWS_MAX / per_token;
    if (s->max_batch < 1 || s->n_tokens < 1 || s->max_batch > most / s->n_tokens) {
        return kd_fail(KD_ERR_ARG,
                       "decoder: %lld sequences of %lld tokens, expected 1 to %lld tokens in all",
                       (long long)s->max_batch, (long long)s->n_tokens, (long long)most);
    }
    const int64_t n_positions = params->config.max_positions;
    if (n_positions > 0 && s->n_tokens > n_positions) {
        return kd_fail(
            KD_ERR_INVALID,
            "found sequences of %lld tokens, expected at most %lld: the model has no more "
            "positions (max_position_embeddings)",
            (long long)s->n_tokens, (long long)n_positions);
    }
    return KD_OK;
}

static void find_weights(kd_decoder *d)
{
    const kd_model_config *c = &d->params->config;

    d->embedding = kd_parameters_weight(d->params, KD_PARAM_EMBEDDING, 0);
    d->final_norm = kd_parameters_weight(d->params, KD_PARAM_FINAL_NORM, 0);
    d->lm_head =
        c->tied_embeddings ? d->embedding : kd_parameters_weight(d->params, KD_PARAM_LM_HEAD, 0);
    for (int64_t l = 0; l < c->n_layers; l++) {
        kd_layer_find(&d->layers[l], d->params, l);
    }
}

static void start_pass(kd_decoder *d)
{
    d->pass = (kd_pass){
        .be = d->params->be,
        .config = &d->params->config,
        .train = d->settings.train,
        .n_tokens = d->settings.n_tokens,
        .probes = &d->probes,
        .first_region = kd_regions(d->params->be, kd_layer_regions(&d->params->config)),
        .on_block = d->settings.on_block,
        .user = d->settings.user,
    };
}

static kd_status set_up(kd_decoder *d)
{
    const int64_t n_layers = d->params->config.n_layers;

    start_pass(d);
    d->layers = calloc((size_t)n_layers, sizeof *d->layers);
    d->acts = calloc((size_t)n_acts(d), sizeof *d->acts);
    if (d->layers == NULL || d->acts == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a decoder of %lld layers", (long long)n_layers);
    }
    find_weights(d);
    kd_status st = kd_taps_create(&d->pass.taps, n_layers, NULL, 0);
    if (!st) {
        st = allocate_slab(d);
    }
    return st ? st : upload_rope(d);
}

kd_status kd_decoder_create(kd_parameters *params,
                            const kd_decoder_settings *settings,
                            kd_decoder **decoder_out)
{
    kd_status st = check_settings(params, settings);
    if (st) {
        return st;
    }
    kd_decoder *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a decoder");
    }
    d->params = params;
    d->settings = *settings;
    st = set_up(d);
    if (st) {
        kd_decoder_destroy(d);
        return st;
    }
    *decoder_out = d;
    return KD_OK;
}

void kd_decoder_destroy(kd_decoder *decoder)
{
    if (decoder == NULL) {
        return;
    }
    if (decoder->slab != NULL) {
        decoder->pass.be->ops->free(decoder->pass.be, decoder->slab);
    }
    if (decoder->keys != NULL) {
        decoder->pass.be->ops->free(decoder->pass.be, decoder->keys);
    }
    kd_taps_release(&decoder->pass.taps);
    free(decoder->acts);
    free(decoder->layers);
    free(decoder);
}

/* ---- listeners ---- */

/* Memory for the keys that the taps ask to keep, in place of what was kept before. */
static kd_status allocate_keys(kd_decoder *d)
{
    kd_backend *be = d->pass.be;
    kd_arena arena = {0};
    void *keys = NULL;

    lay_out_keys(d, &arena);
    if (arena.used > 0) {
        const kd_status st = kd_backend_place(
            be, KD_MEMORY_DEVICE, arena.used, &keys, "keys of %lld sequences of %lld tokens",
            (long long)d->settings.max_batch, (long long)d->settings.n_tokens);
        if (st) {
            return st;
        }
    }
    if (d->keys != NULL) {
        be->ops->free(be, d->keys);
    }
    d->keys = keys;
    d->keys_bytes = arena.used;
    return KD_OK;
}

kd_status kd_decoder_listen(kd_decoder *d, const kd_listener *listeners, int n)
{
    kd_taps taps;
    kd_status st = kd_backend_wait(d->pass.be); /* buffers are given back below */
    if (!st) {
        st = kd_taps_create(&taps, d->params->config.n_layers, listeners, n);
    }
    if (st) {
        return st;
    }
    kd_taps unused = d->pass.taps;
    d->pass.taps = taps;
    st = allocate_keys(d);
    if (st) {
        d->pass.taps = unused;
        unused = taps;
    }
    kd_taps_release(&unused);
    lay_out_for(d, d->pass.n_batch);
    return st;
}

/* ---- the passes ---- */

const kd_layer_acts *kd_decoder_acts(const kd_decoder *d, int64_t layer)
{
    return &d->acts[d->settings.train ? layer : 0];
}

/* On the back end, or none. */
static kd_tensor given(const kd_decoder *d, kd_tensor t, const int32_t *host)
{
    if (host == NULL) {
        return kd_tensor_none();
    }
    d->pass.be->ops->upload(d->pass.be, t, host);
    return t;
}

void kd_decoder_forward(kd_decoder *decoder, const kd_batch *batch)
{
    kd_decoder *d = decoder;
    kd_backend *be = d->pass.be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = &d->params->config;

    KD_CHECK(batch->n_batch >= 1 && batch->n_batch <= d->settings.max_batch);
    KD_CHECK(batch->n_tokens == d->settings.n_tokens);
    if (batch->n_batch != d->pass.n_batch) {
        lay_out_for(d, batch->n_batch);
    }
    kd_progress_tick();
    d->pass.batch = *batch;
    ops->upload(be, d->tokens, batch->tokens);
    d->pass.positions = given(d, d->positions, batch->positions);
    d->pass.segments = given(d, d->segments, batch->segments);

    kd_tensor x = kd_decoder_acts(d, 0)->attention.x, delta = kd_tensor_none();
    ops->embed(be, x, d->embedding.value, d->tokens);
    for (int64_t l = 0; l < c->n_layers; l++) {
        x = kd_layer_forward(&d->pass, &d->layers[l], kd_decoder_acts(d, l), &d->grads, x, delta);
        delta = d->pass.delta;
    }
    ops->norm(be, d->hidden, d->x, x, delta, d->final_norm.value, d->rstd, c->norm_eps);
    kd_tap_forward(&d->pass, KD_TAP_HIDDEN, c->n_layers - 1, d->x, NULL);
}

/* In training: the residual stream that leaves a layer. */
static kd_tensor hidden_of(const kd_decoder *d, int64_t layer)
{
    return layer + 1 < d->params->config.n_layers ? d->acts[layer + 1].attention.x : d->x;
}

void kd_decoder_backward(kd_decoder *decoder, kd_tensor d_hidden)
{
    kd_decoder *d = decoder;
    kd_backend *be = d->pass.be;
    const kd_ops *ops = be->ops;
    const kd_tensor dx = d->pass.dx;

    KD_CHECK(d->settings.train);
    ops->zero(be, dx);
    ops->norm_backward(be, dx, d->final_norm.grad, d_hidden, d->x, d->final_norm.value, d->rstd,
                       kd_weight_adds(d->final_norm));
    for (int64_t l = d->params->config.n_layers - 1; l >= 0; l--) {
        kd_tap_backward(&d->pass, KD_TAP_HIDDEN, l, hidden_of(d, l), dx, NULL);
        kd_layer_backward(&d->pass, &d->layers[l], kd_decoder_acts(d, l), &d->grads);
    }
    kd_weight_embed_grad(be, d->embedding, dx, d->tokens);
}

/* ---- reading ---- */

size_t kd_decoder_bytes(const kd_decoder *decoder)
{
    return decoder->slab_bytes + decoder->keys_bytes;
}

kd_tensor kd_decoder_hidden(const kd_decoder *decoder)
{
    return decoder->hidden;
}

kd_tensor kd_decoder_lm_head(const kd_decoder *decoder)
{
    return decoder->lm_head.value;
}

kd_weight kd_decoder_lm_head_weight(const kd_decoder *decoder)
{
    return decoder->lm_head;
}
