/*
 * layer.c - the forward pass of a layer, whole: a page tells what a decoder computes. Buffers and
 * gradients, which would hide it, are in attention.c and moe.c; the order of the backward pass is here
 * too.
 */
#include "model/layer.h"

/* ---- forward ---- */

static void queries_forward(const kd_pass *pass,
                            const kd_layer *layer,
                            const kd_attention_acts *acts,
                            const kd_qkv *s)
{
    kd_backend *be = pass->be;
    const kd_model_config *c = pass->config;
    const kd_rotation by = kd_rotation_of(pass, c->n_heads);

    if (s->normalised) {
        be->ops->head_norm_rotate(be, s->q, s->q_linear, layer->attention.q_norm.value,
                                  acts->q_rstd, c->norm_eps, &by);
    } else {
        be->ops->rotate(be, s->q, &by, false);
    }
}

/* As queries, in two passes over them where someone listens in between. */
static void keys_forward(const kd_pass *pass,
                         const kd_layer *layer,
                         const kd_attention_acts *acts,
                         const kd_qkv *s)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;
    const kd_tensor weight = layer->attention.k_norm.value;
    const kd_rotation by = kd_rotation_of(pass, c->n_kv_heads);

    if (s->normalised && !kd_tap_is_wanted(pass, KD_TAP_KEY, layer->index)) {
        ops->head_norm_rotate(be, s->k, s->k_linear, weight, acts->k_rstd, c->norm_eps, &by);
        return;
    }
    if (s->normalised) {
        ops->head_norm(be, s->k, s->k_linear, weight, acts->k_rstd, s->k_parts, c->norm_eps);
    }
    if (acts->key.data != NULL) {
        ops->copy(be, acts->key, s->k);
    }
    kd_tap_forward(pass, KD_TAP_KEY, layer->index, s->k, NULL);
    ops->rotate(be, s->k, &by, false);
}

static void attention_forward(const kd_pass *pass,
                              const kd_layer *layer,
                              const kd_attention_acts *acts,
                              kd_tensor x,
                              kd_tensor delta)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;
    const kd_attention_weights *weights = &layer->attention;
    const kd_qkv s = kd_qkv_of(c, acts->qkv, acts->qk);
    const kd_attention attention = kd_attention_of(pass, acts, &s);

    ops->norm(be, acts->normed, acts->x, x, delta, weights->norm.value, acts->rstd, c->norm_eps);
    if (layer->index > 0) {
        kd_tap_forward(pass, KD_TAP_HIDDEN, layer->index - 1, acts->x, NULL);
    }
    ops->linear(be, acts->qkv, acts->normed, weights->qkv.value);
    if (c->qkv_bias) {
        ops->bias(be, acts->qkv, weights->qkv_bias.value);
    }
    queries_forward(pass, layer, acts, &s);
    keys_forward(pass, layer, acts, &s);
    kd_tap_forward(pass, KD_TAP_VALUE, layer->index, s.v, NULL);
    ops->attention(be, &attention);
    ops->linear(be, pass->delta, acts->mixed, weights->out.value);
}

/* y (N, C) f32 or compute = down(swiglu(gate_up(x))). */
static void mlp_forward(kd_backend *be,
                        const kd_mlp_weights *weights,
                        const kd_mlp_acts *acts,
                        kd_tensor x,
                        kd_tensor y)
{
    const kd_ops *ops = be->ops;

    ops->linear(be, acts->gate_up, x, weights->gate_up.value);
    ops->swiglu(be, acts->hidden, acts->gate_up);
    ops->linear(be, y, acts->hidden, weights->down.value);
}

static void
experts_forward(const kd_pass *pass, const kd_layer *layer, const kd_moe_acts *acts, kd_tensor rows)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_moe_weights *weights = &layer->moe;
    const kd_route *route = &acts->route;

    ops->linear(be, acts->logits, acts->normed, weights->router.value);
    ops->route(be, route, acts->logits);
    kd_tap_forward(pass, KD_TAP_ROUTER, layer->index, acts->logits, route);
    ops->dispatch(be, rows, acts->normed, route);
    kd_tap_forward(pass, KD_TAP_EXPERT_IN, layer->index, rows, route);
    ops->experts(be, acts->gate_up, rows, weights->gate_up.value, route);
    ops->swiglu(be, acts->hidden, acts->gate_up);
    ops->experts(be, acts->out, acts->hidden, weights->down.value, route);
    kd_tap_forward(pass, KD_TAP_EXPERT_OUT, layer->index, acts->out, route);
    ops->combine(be, pass->delta, acts->out, route);
}

/* Adds to pass->delta. */
static void
shared_forward(const kd_pass *pass, const kd_moe_weights *weights, const kd_moe_acts *acts)
{
    kd_backend *be = pass->be;

    mlp_forward(be, &weights->shared, &acts->shared, acts->normed, acts->shared_out);
    be->ops->linear(be, acts->shared_gate, acts->normed, weights->shared_gate.value);
    be->ops->gated_add(be, pass->delta, acts->shared_out, acts->shared_gate);
}

static void moe_forward(const kd_pass *pass,
                        const kd_layer *layer,
                        const kd_moe_acts *acts,
                        kd_tensor rows,
                        kd_tensor x)
{
    kd_backend *be = pass->be;
    const kd_model_config *c = pass->config;
    const kd_moe_weights *weights = &layer->moe;

    be->ops->norm(be, acts->normed, acts->x, x, pass->delta, weights->norm.value, acts->rstd,
                  c->norm_eps);
    if (c->n_experts == 0) {
        mlp_forward(be, &weights->dense, &acts->dense, acts->normed, pass->delta);
        return;
    }
    experts_forward(pass, layer, acts, rows);
    if (c->shared_expert_size > 0) {
        shared_forward(pass, weights, acts);
    }
}

/* ---- regions: a half of a layer in one direction ---- */

typedef enum region {
    ATTENTION_FORWARD,
    MOE_FORWARD,
    MOE_BACKWARD,
    ATTENTION_BACKWARD,
    REGIONS,
} region;

int kd_layer_regions(const kd_model_config *config)
{
    return REGIONS * (int)config->n_layers;
}

/* Whether someone listens in between, who may do what a region does not gain from. */
static bool is_heard(const kd_pass *pass, int64_t layer, region which)
{
    switch (which) {
    case ATTENTION_FORWARD:
        return kd_tap_is_wanted(pass, KD_TAP_KEY, layer) ||
               kd_tap_is_wanted(pass, KD_TAP_VALUE, layer) ||
               (layer > 0 && kd_tap_is_wanted(pass, KD_TAP_HIDDEN, layer - 1));
    case ATTENTION_BACKWARD:
        return kd_tap_is_wanted(pass, KD_TAP_KEY, layer) ||
               kd_tap_is_wanted(pass, KD_TAP_VALUE, layer);
    case MOE_FORWARD:
    case MOE_BACKWARD:
        return kd_tap_is_wanted(pass, KD_TAP_ROUTER, layer) ||
               kd_tap_is_wanted(pass, KD_TAP_EXPERT_IN, layer) ||
               kd_tap_is_wanted(pass, KD_TAP_EXPERT_OUT, layer);
    case REGIONS:
        break;
    }
    return true;
}

static void begin(const kd_pass *pass, int64_t layer, region which)
{
    if (!is_heard(pass, layer, which)) {
        pass->be->ops->region_begin(pass->be,
                                    pass->first_region + REGIONS * (int)layer + (int)which);
    }
}

static void half_done(const kd_pass *pass)
{
    pass->be->ops->region_end(pass->be);
    if (pass->on_block != NULL) {
        pass->on_block(pass->user);
    }
}

/* ---- both directions ---- */

kd_tensor kd_layer_forward(const kd_pass *pass,
                           const kd_layer *layer,
                           const kd_layer_acts *acts,
                           const kd_layer_grads *scratch,
                           kd_tensor x,
                           kd_tensor delta)
{
    begin(pass, layer->index, ATTENTION_FORWARD);
    attention_forward(pass, layer, &acts->attention, x, delta);
    half_done(pass);
    begin(pass, layer->index, MOE_FORWARD);
    moe_forward(pass, layer, &acts->moe, scratch->moe.rows, acts->attention.x);
    half_done(pass);
    return acts->moe.x;
}

void kd_layer_backward(const kd_pass *pass,
                       const kd_layer *layer,
                       const kd_layer_acts *acts,
                       const kd_layer_grads *grads)
{
    begin(pass, layer->index, MOE_BACKWARD);
    kd_moe_backward(pass, layer->index, &layer->moe, &acts->moe, &grads->moe);
    half_done(pass);
    begin(pass, layer->index, ATTENTION_BACKWARD);
    kd_attention_backward(pass, layer->index, &layer->attention, &acts->attention,
                          &grads->attention);
    half_done(pass);
}

/* ---- weights and buffers ---- */

void kd_layer_find(kd_layer *layer, const kd_parameters *params, int64_t index)
{
    layer->index = index;
    kd_attention_weights_find(&layer->attention, params, index);
    kd_moe_weights_find(&layer->moe, params, index);
}

void kd_layer_acts_layout(kd_layer_acts *acts, const kd_pass *pass, kd_arena *arena)
{
    kd_attention_acts_layout(&acts->attention, pass, arena);
    kd_moe_acts_layout(&acts->moe, pass, arena);
}

void kd_layer_grads_layout(kd_layer_grads *grads, const kd_pass *pass, kd_arena *arena)
{
    const size_t mark = arena->used;
    size_t attention_end = mark;

    if (pass->train) {
        kd_attention_grads_layout(&grads->attention, pass, arena);
        attention_end = arena->used;
        kd_arena_rewind(arena, mark); /* the other half's lie on top */
    }
    kd_moe_grads_layout(&grads->moe, pass, arena);
    if (arena->used < attention_end) {
        (void)kd_arena_carve(arena, attention_end - arena->used);
    }
}
