/* llama.c - the dense one: an MLP without experts. */
#include "shape/type.h"

static const kd_fixed_key fixed[] = {
    {"attention_bias", "false"},
    {"mlp_bias", "false"},
    {NULL, NULL},
};

const kd_model_type kd_model_llama = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .whole_heads = true,
    .key_intermediate_size = "intermediate_size",
    .kv_heads_optional = true,
    .rope_theta = 1e4,
    .fixed = fixed,
    .mlp =
        {
            .gate = "mlp.gate_proj.weight",
            .up = "mlp.up_proj.weight",
            .down = "mlp.down_proj.weight",
        },
};
