/*
 * attention.c - buffers and backward pass of attention. Its forward pass is in layer.c, so that a layer
 * can be read on one page; here is what follows from it: what has to be kept, and the same operations in
 * the opposite order.
 */
#include "model/attention.h"

#include "model/weight.h"

/* Columns of queries, keys and values in a row of qkv. */
static int64_t q_columns(const kd_model_config *c)
{
    return c->n_heads * c->head_dim;
}

static int64_t k_columns(const kd_model_config *c)
{
    return c->n_kv_heads * c->head_dim;
}

static bool has_qk_norm(const kd_model_config *c)
{
    return c->qk_norm != KD_QK_NORM_NONE;
}

/* How many parts of a row are normalised by themselves. */
static int64_t norm_parts(const kd_model_config *c, int64_t n_heads)
{
    return c->qk_norm == KD_QK_NORM_ROW ? 1 : n_heads;
}

kd_qkv kd_qkv_of(const kd_model_config *c, kd_tensor qkv, kd_tensor qk)
{
    const int64_t nq = q_columns(c), nk = k_columns(c);
    const kd_tensor turned = has_qk_norm(c) ? qk : qkv;
    return (kd_qkv){
        .q_linear = kd_tensor_slice_columns(qkv, 0, nq),
        .k_linear = kd_tensor_slice_columns(qkv, nq, nk),
        .q = kd_tensor_slice_columns(turned, 0, nq),
        .k = kd_tensor_slice_columns(turned, nq, nk),
        .v = kd_tensor_slice_columns(qkv, nq + nk, nk),
        .normalised = has_qk_norm(c),
        .k_parts = norm_parts(c, c->n_kv_heads),
    };
}

void kd_attention_weights_find(kd_attention_weights *weights,
                               const kd_parameters *params,
                               int64_t layer)
{
    *weights = (kd_attention_weights){
        .norm = kd_parameters_weight(params, KD_PARAM_ATTENTION_NORM, layer),
        .qkv = kd_parameters_weight(params, KD_PARAM_QKV, layer),
        .qkv_bias = kd_parameters_weight(params, KD_PARAM_QKV_BIAS, layer),
        .q_norm = kd_parameters_weight(params, KD_PARAM_Q_NORM, layer),
        .k_norm = kd_parameters_weight(params, KD_PARAM_K_NORM, layer),
        .out = kd_parameters_weight(params, KD_PARAM_ATTENTION_OUT, layer),
    };
}

void kd_attention_acts_layout(kd_attention_acts *acts, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, nq = q_columns(c), nk = k_columns(c);

    *acts = (kd_attention_acts){0};
    acts->x = kd_tensor_carve_2d(arena, KD_F32, n, c->hidden_size);
    acts->rstd = kd_tensor_carve_1d(arena, KD_F32, n);
    acts->normed = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
    acts->qkv = kd_tensor_carve_2d(arena, compute, n, nq + 2 * nk);
    if (has_qk_norm(c)) {
        acts->qk = kd_tensor_carve_2d(arena, compute, n, nq + nk);
        acts->q_rstd = kd_tensor_carve_2d(arena, KD_F32, n, norm_parts(c, c->n_heads));
        acts->k_rstd = kd_tensor_carve_2d(arena, KD_F32, n, norm_parts(c, c->n_kv_heads));
    }
    acts->mixed = kd_tensor_carve_2d(arena, compute, n, nq);
    if (pass->train) {
        acts->lse = kd_tensor_carve_2d(arena, KD_F32, pass->n_batch * c->n_heads, pass->n_tokens);
    }
}

void kd_attention_grads_layout(kd_attention_grads *grads, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, nq = q_columns(c), nk = k_columns(c);

    *grads = (kd_attention_grads){0};
    grads->d_out = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
    grads->d_mixed = kd_tensor_carve_2d(arena, compute, n, nq);
    if (has_qk_norm(c)) {
        grads->d_qk = kd_tensor_carve_2d(arena, compute, n, nq + nk);
    }
    grads->d_qkv = kd_tensor_carve_2d(arena, compute, n, nq + 2 * nk);
    grads->d_normed = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
}

kd_attention kd_attention_of(const kd_pass *pass, const kd_attention_acts *acts, const kd_qkv *qkv)
{
    return (kd_attention){
        .q = qkv->q,
        .k = qkv->k,
        .v = qkv->v,
        .out = acts->mixed,
        .lse = acts->lse,
        .segments = pass->segments,
        .n_batch = pass->n_batch,
        .n_tokens = pass->n_tokens,
        .n_heads = pass->config->n_heads,
        .n_kv_heads = pass->config->n_kv_heads,
        .head_dim = pass->config->head_dim,
        .window = pass->config->window,
    };
}

/* Of queries: from d->q to d->q_linear. */
static void queries_backward(const kd_pass *pass,
                             const kd_attention_weights *weights,
                             const kd_attention_acts *acts,
                             const kd_qkv *s,
                             const kd_qkv *d)
{
    kd_backend *be = pass->be;
    const kd_weight norm = weights->q_norm;
    const kd_rotation by = kd_rotation_of(pass, pass->config->n_heads);

    if (s->normalised) {
        be->ops->head_norm_rotate_backward(be, d->q_linear, norm.grad, d->q, s->q_linear,
                                           norm.value, acts->q_rstd, kd_weight_adds(norm), &by);
    } else {
        be->ops->rotate(be, d->q, &by, true);
    }
}

/* The same of keys, in two passes over them where someone listens in between. */
static void keys_backward(const kd_pass *pass,
                          int64_t layer,
                          const kd_attention_weights *weights,
                          const kd_attention_acts *acts,
                          const kd_qkv *s,
                          const kd_qkv *d)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_weight norm = weights->k_norm;
    const kd_rotation by = kd_rotation_of(pass, pass->config->n_kv_heads);

    if (s->normalised && !kd_tap_is_wanted(pass, KD_TAP_KEY, layer)) {
        ops->head_norm_rotate_backward(be, d->k_linear, norm.grad, d->k, s->k_linear, norm.value,
                                       acts->k_rstd, kd_weight_adds(norm), &by);
        return;
    }
    ops->rotate(be, d->k, &by, true);
    kd_tap_backward(pass, KD_TAP_KEY, layer, acts->key, d->k, NULL);
    if (s->normalised) {
        ops->head_norm_backward(be, d->k_linear, norm.grad, d->k, s->k_linear, norm.value,
                                acts->k_rstd, s->k_parts, kd_weight_adds(norm));
    }
}

void kd_attention_backward(const kd_pass *pass,
                           int64_t layer,
                           const kd_attention_weights *weights,
                           const kd_attention_acts *acts,
                           const kd_attention_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;
    const kd_qkv s = kd_qkv_of(c, acts->qkv, acts->qk), d = kd_qkv_of(c, grads->d_qkv, grads->d_qk);
    const kd_attention attention = kd_attention_of(pass, acts, &s);

    ops->copy(be, grads->d_out, pass->dx);
    kd_weight_linear_grad(be, weights->out, grads->d_out, acts->mixed);
    ops->linear_backward_x(be, grads->d_mixed, grads->d_out, weights->out.value);
    ops->attention_backward(be, &attention, d.q, d.k, d.v, grads->d_mixed);
    kd_tap_backward(pass, KD_TAP_VALUE, layer, s.v, d.v, NULL);
    queries_backward(pass, weights, acts, &s, &d);
    keys_backward(pass, layer, weights, acts, &s, &d);
    if (c->qkv_bias) {
        kd_weight_bias_grad(be, weights->qkv_bias, grads->d_qkv);
    }
    kd_weight_linear_grad(be, weights->qkv, grads->d_qkv, acts->normed);
    ops->linear_backward_x(be, grads->d_normed, grads->d_qkv, weights->qkv.value);
    ops->norm_backward(be, pass->dx, weights->norm.grad, grads->d_normed, acts->x,
                       weights->norm.value, acts->rstd, kd_weight_adds(weights->norm));
}
