#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/hf_config.h"
#include "format/json_file.h"

static const char *const architectures[] = {
    [KD_MODEL_LLAMA] = "LlamaForCausalLM",        [KD_MODEL_MIXTRAL] = "MixtralForCausalLM",
    [KD_MODEL_QWEN2_MOE] = "Qwen2MoeForCausalLM", [KD_MODEL_QWEN3_MOE] = "Qwen3MoeForCausalLM",
    [KD_MODEL_OLMOE] = "OlmoeForCausalLM",
};
_Static_assert(sizeof architectures / sizeof *architectures == KD_MODEL_TYPE_COUNT,
               "name every architecture");

kd_status kd_hf_config_check(const kd_model_config *c)
{
    const kd_status st = kd_model_config_check(c);
    if (st) {
        return st;
    }
    if (c->type == KD_MODEL_QWEN2_MOE && c->shared_expert_size == 0) {
        return kd_fail(KD_ERR_INVALID,
                       "model: shared_expert_size is 0, expected 1 or more in type qwen2_moe");
    }
    if (c->type == KD_MODEL_LLAMA && c->hidden_size % c->n_heads != 0) {
        return kd_fail(KD_ERR_INVALID,
                       "model: num_heads is %lld, expected a divisor of hidden_size, %lld, in type "
                       "llama",
                       (long long)c->n_heads, (long long)c->hidden_size);
    }
    return KD_OK;
}

/* The shortest decimal that reads back as the same float: 1e-06, not 9.99999997e-07. */
static double shortest(float value)
{
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) {
            return strtod(text, NULL);
        }
    }
    return (double)value;
}

/* The object as it grows; `failed` once a value found no memory. */
typedef struct builder {
    json_t *root;
    bool failed;
} builder;

static void set(builder *b, const char *name, json_t *value)
{
    b->failed |= json_object_set_new(b->root, name, value) != 0;
}

static void describe_mlp(builder *b, const kd_model_config *c)
{
    set(b, "intermediate_size", json_integer(c->intermediate_size));
    if (c->type == KD_MODEL_LLAMA) {
        set(b, "mlp_bias", json_false());
        return;
    }
    set(b, c->type == KD_MODEL_MIXTRAL ? "num_local_experts" : "num_experts",
        json_integer(c->n_experts));
    set(b, "num_experts_per_tok", json_integer(c->experts_per_token));
    set(b, "output_router_logits", json_false());
    if (c->type != KD_MODEL_MIXTRAL) {
        set(b, "norm_topk_prob", json_boolean(c->norm_topk));
    }
    if (c->type == KD_MODEL_QWEN2_MOE || c->type == KD_MODEL_QWEN3_MOE) {
        set(b, "moe_intermediate_size", json_integer(c->intermediate_size));
        set(b, "decoder_sparse_step", json_integer(1));
        set(b, "mlp_only_layers", json_array());
    }
    if (c->type == KD_MODEL_QWEN2_MOE) {
        set(b, "shared_expert_intermediate_size", json_integer(c->shared_expert_size));
    }
}

static void describe_attention(builder *b, const kd_model_config *c)
{
    set(b, "num_attention_heads", json_integer(c->n_heads));
    set(b, "num_key_value_heads", json_integer(c->n_kv_heads));
    set(b, "head_dim", json_integer(c->head_dim));
    /* Both forms, so that versions before and after the change find theirs. */
    set(b, "rope_theta", json_real(c->rope_theta));
    set(b, "rope_parameters",
        json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", c->rope_theta));
    if (c->type == KD_MODEL_QWEN2_MOE) {
        set(b, "qkv_bias", json_boolean(c->qkv_bias));
    } else if (c->type != KD_MODEL_MIXTRAL) {
        set(b, "attention_bias", json_false());
    }
    if (c->type == KD_MODEL_MIXTRAL) {
        set(b, "sliding_window", json_null());
    } else if (c->type != KD_MODEL_LLAMA && c->type != KD_MODEL_OLMOE) {
        set(b, "use_sliding_window", json_false());
    }
}

static void describe(builder *b, const kd_model_config *c, kd_dtype dtype)
{
    set(b, "model_type", json_string(kd_model_type_name(c->type)));
    set(b, "architectures", json_pack("[s]", architectures[c->type]));
    set(b, "torch_dtype", json_string(dtype == KD_BF16 ? "bfloat16" : "float32"));
    set(b, "vocab_size", json_integer(c->vocab_size));
    set(b, "hidden_size", json_integer(c->hidden_size));
    set(b, "num_hidden_layers", json_integer(c->n_layers));
    set(b, "hidden_act", json_string("silu"));
    set(b, "rms_norm_eps", json_real(shortest(c->norm_eps)));
    set(b, "tie_word_embeddings", json_boolean(c->tied_embeddings));
    if (c->max_positions > 0) {
        set(b, "max_position_embeddings", json_integer(c->max_positions));
    }
    /* The defaults of some types lie outside a small vocabulary. */
    set(b, "bos_token_id", json_null());
    set(b, "eos_token_id", json_null());
    set(b, "pad_token_id", json_null());
    describe_attention(b, c);
    describe_mlp(b, c);
}

kd_status kd_hf_config_write(const char *path, const kd_model_config *config, kd_dtype dtype)
{
    KD_CHECK(dtype == KD_F32 || dtype == KD_BF16);
    kd_status st = kd_hf_config_check(config);
    if (st) {
        return st;
    }
    builder b = {.root = json_object()};
    describe(&b, config, dtype);
    st = kd_json_file_write(path, b.failed ? NULL : b.root);
    json_decref(b.root);
    return st;
}
