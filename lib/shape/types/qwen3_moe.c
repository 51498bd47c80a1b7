/* qwen3_moe.c - queries and keys are normalised head by head. */
#include "shape/type.h"

static const kd_fixed_key fixed[] = {
    {"attention_bias", "false"},
    {"decoder_sparse_step", "1"}, /* every layer has experts */
    {"mlp_only_layers", "[]"},
    {NULL, NULL},
};

const kd_model_type kd_model_qwen3_moe = {
    .name = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .has_experts = true,
    .norm_topk = true,
    .qk_norm = KD_QK_NORM_HEAD,
    .window = KD_WINDOW_SWITCHED,
    .key_intermediate_size = "moe_intermediate_size",
    .key_num_experts = "num_experts",
    .key_norm_topk = "norm_topk_prob",
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
