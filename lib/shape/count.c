/*
 * count.c - the sums behind count.h. One place knows how many weights each part of a layer has, since
 * memory, FLOPs and what people are told must agree.
 */
#include "shape/count.h"

/* Weights of one layer's matrices with that many experts taken into account. */
static int64_t layer_matrix_elements(const kd_model_config *c, int64_t n_experts)
{
    const int64_t width = c->hidden_size;
    const int64_t qkv = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    int64_t n = width * (qkv + c->n_heads * c->head_dim);

    n += n_experts * 3 * width * c->intermediate_size; /* gate, up, down */
    n += c->n_experts * width;                         /* router         */
    if (c->shared_expert_size > 0) {
        n += 3 * width * c->shared_expert_size + width;
    }
    return n;
}

static int64_t layer_vector_elements(const kd_model_config *c)
{
    const int64_t q = c->n_heads * c->head_dim, k = c->n_kv_heads * c->head_dim;
    int64_t n = 2 * c->hidden_size;

    n += c->qkv_bias ? q + 2 * k : 0;
    n += c->qk_norm == KD_QK_NORM_HEAD ? 2 * c->head_dim : 0;
    n += c->qk_norm == KD_QK_NORM_ROW ? q + k : 0;
    return n;
}

static int64_t parameters_with(const kd_model_config *c, int64_t n_experts)
{
    const int64_t layer = layer_matrix_elements(c, n_experts) + layer_vector_elements(c);
    const int64_t table = c->vocab_size * c->hidden_size;
    return c->n_layers * layer + table * (c->tied_embeddings ? 1 : 2) + c->hidden_size;
}

int64_t kd_model_config_parameters(const kd_model_config *config)
{
    return parameters_with(config, config->n_experts > 0 ? config->n_experts : 1);
}

int64_t kd_model_config_active_parameters(const kd_model_config *config)
{
    return parameters_with(config, config->n_experts > 0 ? config->experts_per_token : 1);
}

double kd_model_config_vocabulary_flops(const kd_model_config *config)
{
    return 2.0 * (double)(config->vocab_size * config->hidden_size);
}

double kd_model_config_forward_flops(const kd_model_config *config)
{
    const int64_t n_experts = config->n_experts > 0 ? config->experts_per_token : 1;
    const int64_t weights = config->n_layers * layer_matrix_elements(config, n_experts);
    return 2.0 * (double)weights + kd_model_config_vocabulary_flops(config);
}
