/*
 * moe.c - buffers and backward pass of a layer's second half, dense or sparse; its forward pass is in
 * layer.c, as attention's is. Buffers of gradients are one set for all layers, those of activations one a
 * layer in training: what is kept is what a backward pass reads.
 */
#include "model/moe.h"

#include "model/weight.h"

static int64_t routed_rows(const kd_pass *pass)
{
    const kd_model_config *c = pass->config;
    return kd_expert_rows(pass->be, pass->n_rows, c->experts_per_token, c->n_experts);
}

/* ---- weights and buffers ---- */

/* The only matrix of a stack of one, (1, O, K) as (O, K); none stays none. */
static kd_tensor only_matrix(kd_tensor t)
{
    return t.data == NULL ? t : kd_tensor_2d(t.data, t.dtype, t.dims[1], t.dims[2]);
}

static kd_weight only_weight(kd_weight w)
{
    return (kd_weight){
        .value = only_matrix(w.value), .grad = only_matrix(w.grad), .written = w.written};
}

void kd_moe_weights_find(kd_moe_weights *weights, const kd_parameters *params, int64_t layer)
{
    *weights = (kd_moe_weights){
        .norm = kd_parameters_weight(params, KD_PARAM_MLP_NORM, layer),
        .router = kd_parameters_weight(params, KD_PARAM_ROUTER, layer),
        .gate_up = kd_parameters_weight(params, KD_PARAM_GATE_UP, layer),
        .down = kd_parameters_weight(params, KD_PARAM_DOWN, layer),
        .shared = {.gate_up = kd_parameters_weight(params, KD_PARAM_SHARED_GATE_UP, layer),
                   .down = kd_parameters_weight(params, KD_PARAM_SHARED_DOWN, layer)},
        .shared_gate = kd_parameters_weight(params, KD_PARAM_SHARED_GATE, layer),
    };
    if (params->config.n_experts == 0) {
        weights->dense.gate_up = only_weight(weights->gate_up);
        weights->dense.down = only_weight(weights->down);
    }
}

static void mlp_acts_layout(kd_mlp_acts *acts, const kd_pass *pass, int64_t width, kd_arena *arena)
{
    acts->gate_up = kd_tensor_carve_2d(arena, pass->be->compute, pass->n_rows, 2 * width);
    acts->hidden = kd_tensor_carve_2d(arena, pass->be->compute, pass->n_rows, width);
}

static void route_layout(kd_route *route, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const int64_t n = pass->n_rows, k = c->experts_per_token;

    route->probs = kd_tensor_carve_2d(arena, KD_F32, n, c->n_experts);
    route->experts = kd_tensor_carve_2d(arena, KD_I32, n, k);
    route->weights = kd_tensor_carve_2d(arena, KD_F32, n, k);
    route->position = kd_tensor_carve_2d(arena, KD_I32, n, k);
    route->token = kd_tensor_carve_1d(arena, KD_I32, routed_rows(pass));
    route->offset = kd_tensor_carve_1d(arena, KD_I32, c->n_experts + 1);
    route->renormalise = c->norm_topk;
}

void kd_moe_acts_layout(kd_moe_acts *acts, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, inner = c->intermediate_size;

    *acts = (kd_moe_acts){0};
    acts->x = kd_tensor_carve_2d(arena, KD_F32, n, c->hidden_size);
    acts->rstd = kd_tensor_carve_1d(arena, KD_F32, n);
    acts->normed = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
    if (c->n_experts == 0) {
        mlp_acts_layout(&acts->dense, pass, inner, arena);
        return;
    }
    const int64_t n_routed = routed_rows(pass);
    acts->logits = kd_tensor_carve_2d(arena, KD_F32, n, c->n_experts);
    route_layout(&acts->route, pass, arena);
    acts->gate_up = kd_tensor_carve_2d(arena, compute, n_routed, 2 * inner);
    acts->hidden = kd_tensor_carve_2d(arena, compute, n_routed, inner);
    acts->out = kd_tensor_carve_2d(arena, compute, n_routed, c->hidden_size);
    if (c->shared_expert_size > 0) {
        mlp_acts_layout(&acts->shared, pass, c->shared_expert_size, arena);
        acts->shared_out = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
        acts->shared_gate = kd_tensor_carve_2d(arena, KD_F32, n, 1);
    }
}

static void mlp_grads_layout(kd_moe_grads *grads, const kd_pass *pass, int64_t width, kd_arena *a)
{
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows;

    grads->mlp.d_hidden = kd_tensor_carve_2d(a, compute, n, width);
    grads->mlp.d_gate_up = kd_tensor_carve_2d(a, compute, n, 2 * width);
    grads->mlp.d_out = kd_tensor_carve_2d(a, compute, n, pass->config->hidden_size);
    grads->d_gate = kd_tensor_carve_2d(a, KD_F32, n, 1);
    grads->d_gate_row = kd_tensor_carve_2d(a, compute, n, 1);
}

static void expert_grads_layout(kd_moe_grads *grads, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, n_routed = routed_rows(pass), inner = c->intermediate_size;

    grads->d_rows = kd_tensor_carve_2d(arena, compute, n_routed, c->hidden_size);
    grads->d_hidden = kd_tensor_carve_2d(arena, compute, n_routed, inner);
    grads->d_gate_up = kd_tensor_carve_2d(arena, compute, n_routed, 2 * inner);
    grads->d_weights = kd_tensor_carve_2d(arena, KD_F32, n, c->experts_per_token);
    grads->d_logits = kd_tensor_carve_2d(arena, KD_F32, n, c->n_experts);
    grads->d_router = kd_tensor_carve_2d(arena, compute, n, c->n_experts);
}

void kd_moe_grads_layout(kd_moe_grads *grads, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const int64_t mlp_width = c->n_experts == 0 ? c->intermediate_size : c->shared_expert_size;

    *grads = (kd_moe_grads){0};
    if (c->n_experts > 0) {
        grads->rows =
            kd_tensor_carve_2d(arena, pass->be->compute, routed_rows(pass), c->hidden_size);
    }
    if (!pass->train) {
        return;
    }
    grads->d_normed = kd_tensor_carve_2d(arena, KD_F32, pass->n_rows, c->hidden_size);
    grads->d_part = kd_tensor_carve_2d(arena, pass->be->compute, pass->n_rows, c->hidden_size);
    if (c->n_experts > 0) {
        expert_grads_layout(grads, pass, arena);
    }
    if (mlp_width > 0) {
        mlp_grads_layout(grads, pass, mlp_width, arena);
    }
}

/* ---- backward ---- */

/* dx (N, C) f32 or compute from grads->d_out. */
static void mlp_backward(kd_backend *be,
                         const kd_mlp_weights *weights,
                         const kd_mlp_acts *acts,
                         const kd_mlp_grads *grads,
                         kd_tensor dx,
                         kd_tensor x)
{
    const kd_ops *ops = be->ops;

    kd_weight_linear_grad(be, weights->down, grads->d_out, acts->hidden);
    ops->linear_backward_x(be, grads->d_hidden, grads->d_out, weights->down.value);
    ops->swiglu_backward(be, grads->d_gate_up, grads->d_hidden, acts->gate_up);
    kd_weight_linear_grad(be, weights->gate_up, grads->d_gate_up, x);
    ops->linear_backward_x(be, dx, grads->d_gate_up, weights->gate_up.value);
}

/* Writes d_normed, what the router's logits owe to acts->normed. */
static void router_backward(const kd_pass *pass,
                            int64_t layer,
                            const kd_moe_weights *weights,
                            const kd_moe_acts *acts,
                            const kd_moe_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;

    ops->route_backward(be, grads->d_logits, grads->d_weights, acts->logits, &acts->route);
    kd_tap_backward(pass, KD_TAP_ROUTER, layer, acts->logits, grads->d_logits, &acts->route);
    ops->copy(be, grads->d_router, grads->d_logits);
    kd_weight_linear_grad(be, weights->router, grads->d_router, acts->normed);
    ops->linear_backward_x(be, grads->d_normed, grads->d_router, weights->router.value);
}

/* Writes d_weights for the router, and d_part, what the experts owe to acts->normed. */
static void experts_backward(const kd_pass *pass,
                             int64_t layer,
                             const kd_moe_weights *weights,
                             const kd_moe_acts *acts,
                             const kd_moe_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_route *route = &acts->route;

    ops->combine_backward(be, grads->d_rows, grads->d_weights, pass->dx, acts->out, route);
    kd_tap_backward(pass, KD_TAP_EXPERT_OUT, layer, acts->out, grads->d_rows, route);
    kd_weight_experts_grad(be, weights->down, grads->d_rows, acts->hidden, route);
    ops->experts_backward_x(be, grads->d_hidden, grads->d_rows, weights->down.value, route);
    ops->swiglu_backward(be, grads->d_gate_up, grads->d_hidden, acts->gate_up);
    if (kd_weight_trained(weights->gate_up) || kd_tap_is_wanted(pass, KD_TAP_EXPERT_IN, layer)) {
        ops->dispatch(be, grads->rows, acts->normed, route);
    }
    kd_weight_experts_grad(be, weights->gate_up, grads->d_gate_up, grads->rows, route);
    ops->experts_backward_x(be, grads->d_rows, grads->d_gate_up, weights->gate_up.value, route);
    kd_tap_backward(pass, KD_TAP_EXPERT_IN, layer, grads->rows, grads->d_rows, route);
    ops->dispatch_backward(be, grads->d_part, grads->d_rows, route);
}

/* Adds to d_normed. */
static void shared_backward(const kd_pass *pass,
                            const kd_moe_weights *weights,
                            const kd_moe_acts *acts,
                            const kd_moe_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;

    ops->gated_add_backward(be, grads->mlp.d_out, grads->d_gate, pass->dx, acts->shared_out,
                            acts->shared_gate);
    mlp_backward(be, &weights->shared, &acts->shared, &grads->mlp, grads->d_part, acts->normed);
    ops->add(be, grads->d_normed, grads->d_part);
    ops->copy(be, grads->d_gate_row, grads->d_gate);
    kd_weight_linear_grad(be, weights->shared_gate, grads->d_gate_row, acts->normed);
    ops->linear_backward_x(be, grads->d_part, grads->d_gate_row, weights->shared_gate.value);
    ops->add(be, grads->d_normed, grads->d_part);
}

void kd_moe_backward(const kd_pass *pass,
                     int64_t layer,
                     const kd_moe_weights *weights,
                     const kd_moe_acts *acts,
                     const kd_moe_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;

    if (c->n_experts == 0) {
        ops->copy(be, grads->mlp.d_out, pass->dx);
        mlp_backward(be, &weights->dense, &acts->dense, &grads->mlp, grads->d_normed, acts->normed);
    } else {
        experts_backward(pass, layer, weights, acts, grads);
        router_backward(pass, layer, weights, acts, grads);
        ops->add(be, grads->d_normed, grads->d_part);
        if (c->shared_expert_size > 0) {
            shared_backward(pass, weights, acts, grads);
        }
    }
    kd_probes_join(pass->probes, layer, grads->d_normed);
    ops->norm_backward(be, pass->dx, weights->norm.grad, grads->d_normed, acts->x,
                       weights->norm.value, acts->rstd, kd_weight_adds(weights->norm));
}
