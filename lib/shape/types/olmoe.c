/* olmoe.c - queries and keys are normalised over all heads of a row. */
#include "shape/type.h"

static const kd_fixed_key fixed[] = {
    {"attention_bias", "false"},
    {NULL, NULL},
};

const kd_model_type kd_model_olmoe = {
    .name = "olmoe",
    .architecture = "OlmoeForCausalLM",
    .has_experts = true,
    .qk_norm = KD_QK_NORM_ROW,
    .key_intermediate_size = "intermediate_size",
    .key_num_experts = "num_experts",
    .key_norm_topk = "norm_topk_prob",
    .kv_heads_optional = true,
    .rope_theta = 1e4,
    .fixed = fixed,
    .mlp =
        {
            .router = "mlp.gate.weight",
            .gate = "mlp.experts.*.gate_proj.weight",
            .up = "mlp.experts.*.up_proj.weight",
            .down = "mlp.experts.*.down_proj.weight",
        },
};
