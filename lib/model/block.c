#include "model/block.h"

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

/* Views of the three parts of a row of qkv, and of what attention reads: the same, or qk. */
typedef struct qkv_views {
    kd_tensor q_linear, k_linear; /* (N, H D), (N, G D): what the product wrote */
    kd_tensor q, k, v;            /* (N, H D), (N, G D), (N, G D)               */
} qkv_views;

static qkv_views views_of(const kd_model_config *c, kd_tensor qkv, kd_tensor qk)
{
    const int64_t nq = q_columns(c), nk = k_columns(c);
    const kd_tensor turned = has_qk_norm(c) ? qk : qkv;
    return (qkv_views){
        .q_linear = kd_tensor_slice_columns(qkv, 0, nq),
        .k_linear = kd_tensor_slice_columns(qkv, nq, nk),
        .q = kd_tensor_slice_columns(turned, 0, nq),
        .k = kd_tensor_slice_columns(turned, nq, nk),
        .v = kd_tensor_slice_columns(qkv, nq + nk, nk),
    };
}

void kd_block_weights_find(kd_block_weights *weights, const kd_parameters *params, int64_t layer)
{
    *weights = (kd_block_weights){
        .norm = kd_parameters_weight(params, KD_PARAM_ATTENTION_NORM, layer),
        .qkv = kd_parameters_weight(params, KD_PARAM_QKV, layer),
        .qkv_bias = kd_parameters_weight(params, KD_PARAM_QKV_BIAS, layer),
        .q_norm = kd_parameters_weight(params, KD_PARAM_Q_NORM, layer),
        .k_norm = kd_parameters_weight(params, KD_PARAM_K_NORM, layer),
        .out = kd_parameters_weight(params, KD_PARAM_ATTENTION_OUT, layer),
    };
}

void kd_block_acts_layout(kd_block_acts *acts, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, nq = q_columns(c), nk = k_columns(c);

    *acts = (kd_block_acts){0};
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

void kd_block_grads_layout(kd_block_grads *grads, const kd_pass *pass, kd_arena *arena)
{
    const kd_model_config *c = pass->config;
    const kd_dtype compute = pass->be->compute;
    const int64_t n = pass->n_rows, nq = q_columns(c), nk = k_columns(c);

    *grads = (kd_block_grads){0};
    grads->d_out = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
    grads->d_mixed = kd_tensor_carve_2d(arena, compute, n, nq);
    if (has_qk_norm(c)) {
        grads->d_qk = kd_tensor_carve_2d(arena, compute, n, nq + nk);
    }
    grads->d_qkv = kd_tensor_carve_2d(arena, compute, n, nq + 2 * nk);
    grads->d_normed = kd_tensor_carve_2d(arena, compute, n, c->hidden_size);
}

static kd_attention
attention_of(const kd_pass *pass, const kd_block_acts *acts, const qkv_views *views)
{
    return (kd_attention){
        .q = views->q,
        .k = views->k,
        .v = views->v,
        .out = acts->mixed,
        .lse = acts->lse,
        .n_batch = pass->n_batch,
        .n_tokens = pass->n_tokens,
        .n_heads = pass->config->n_heads,
        .n_kv_heads = pass->config->n_kv_heads,
        .head_dim = pass->config->head_dim,
    };
}

void kd_block_forward(const kd_pass *pass,
                      const kd_block_weights *weights,
                      const kd_block_acts *acts,
                      kd_tensor x,
                      kd_tensor delta)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;
    const int64_t n_q = c->n_heads, n_k = c->n_kv_heads;
    const qkv_views s = views_of(c, acts->qkv, acts->qk);
    const kd_attention attention = attention_of(pass, acts, &s);

    ops->norm(be, acts->normed, acts->x, x, delta, weights->norm.value, acts->rstd, c->norm_eps);
    ops->linear(be, acts->qkv, acts->normed, weights->qkv.value);
    if (c->qkv_bias) {
        ops->bias(be, acts->qkv, weights->qkv_bias.value);
    }
    if (has_qk_norm(c)) {
        ops->head_norm(be, s.q, s.q_linear, weights->q_norm.value, acts->q_rstd, norm_parts(c, n_q),
                       c->norm_eps);
        ops->head_norm(be, s.k, s.k_linear, weights->k_norm.value, acts->k_rstd, norm_parts(c, n_k),
                       c->norm_eps);
    }
    ops->rotate(be, s.q, n_q, pass->rope, false);
    ops->rotate(be, s.k, n_k, pass->rope, false);
    ops->attention(be, &attention);
    ops->linear(be, pass->delta, acts->mixed, weights->out.value);
}

void kd_block_backward(const kd_pass *pass,
                       const kd_block_weights *weights,
                       const kd_block_acts *acts,
                       const kd_block_grads *grads)
{
    kd_backend *be = pass->be;
    const kd_ops *ops = be->ops;
    const kd_model_config *c = pass->config;
    const int64_t n_q = c->n_heads, n_k = c->n_kv_heads;
    const qkv_views s = views_of(c, acts->qkv, acts->qk),
                    d = views_of(c, grads->d_qkv, grads->d_qk);
    const kd_attention attention = attention_of(pass, acts, &s);

    ops->copy(be, grads->d_out, pass->dx);
    ops->linear_dw(be, weights->out.grad, grads->d_out, acts->mixed);
    ops->linear_dx(be, grads->d_mixed, grads->d_out, weights->out.value);
    ops->attention_backward(be, &attention, d.q, d.k, d.v, grads->d_mixed);
    ops->rotate(be, d.q, n_q, pass->rope, true);
    ops->rotate(be, d.k, n_k, pass->rope, true);
    if (has_qk_norm(c)) {
        ops->head_norm_dx(be, d.q_linear, weights->q_norm.grad, d.q, s.q_linear,
                          weights->q_norm.value, acts->q_rstd, norm_parts(c, n_q));
        ops->head_norm_dx(be, d.k_linear, weights->k_norm.grad, d.k, s.k_linear,
                          weights->k_norm.value, acts->k_rstd, norm_parts(c, n_k));
    }
    if (c->qkv_bias) {
        ops->bias_db(be, weights->qkv_bias.grad, grads->d_qkv);
    }
    ops->linear_dw(be, weights->qkv.grad, grads->d_qkv, acts->normed);
    ops->linear_dx(be, grads->d_normed, grads->d_qkv, weights->qkv.value);
    ops->norm_dx(be, pass->dx, weights->norm.grad, grads->d_normed, acts->x, weights->norm.value,
                 acts->rstd);
}
