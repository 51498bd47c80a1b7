#include "tests/support/tiny_config.h"

kd_model_config tiny_config(const kd_model_type *type)
{
    kd_model_config c = {
        .type = type,
        .vocab_size = 11,
        .hidden_size = 8,
        .n_layers = 2,
        .n_heads = 2,
        .n_kv_heads = 1,
        .head_dim = 6,
        .intermediate_size = 5,
        .n_experts = type->has_experts ? 4 : 0,
        .experts_per_token = type->has_experts ? 2 : 0,
        .shared_expert_size = type->has_shared_expert ? 3 : 0,
        .tied_embeddings = !type->has_experts,
        .rope_theta = 10000.0,
        .norm_eps = 1e-5f,
    };
    if (!type->has_experts) {
        c.intermediate_size = 17;
        c.hidden_size = 9;
        c.n_heads = 3;
    }
    if (type->qk_norm == KD_QK_NORM_ROW) { /* its heads together are as wide as the model */
        c.n_heads = c.n_kv_heads = 2;
        c.head_dim = 4;
    }
    kd_model_config_apply_type(&c);
    return c;
}
