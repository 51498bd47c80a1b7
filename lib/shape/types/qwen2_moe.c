/* qwen2_moe.c - beside the experts that a token chooses, one that every token uses, behind a gate. */
#include "shape/type.h"

static const kd_fixed_key fixed[] = {
    {"decoder_sparse_step", "1"}, /* every layer has experts */
    {"mlp_only_layers", "[]"},
    {"use_sliding_window", "false"}, /* which layers it is for differs from version to version */
    {NULL, NULL},
};

const kd_model_type kd_model_qwen2_moe = {
    .name = "qwen2_moe",
    .architecture = "Qwen2MoeForCausalLM",
    .has_experts = true,
    .has_shared_expert = true,
    .qkv_bias = true,
    .key_intermediate_size = "moe_intermediate_size",
    .key_num_experts = "num_experts",
    .key_shared_expert_size = "shared_expert_intermediate_size",
    .key_norm_topk = "norm_topk_prob",
    .key_qkv_bias = "qkv_bias",
    .rope_theta = 1e4,
    .fixed = fixed,
    .mlp =
        {
            .router = "mlp.gate.weight",
            .gate = "mlp.experts.*.gate_proj.weight",
            .up = "mlp.experts.*.up_proj.weight",
            .down = "mlp.experts.*.down_proj.weight",
            .shared_gate = "mlp.shared_expert.gate_proj.weight",
            .shared_up = "mlp.shared_expert.up_proj.weight",
            .shared_down = "mlp.shared_expert.down_proj.weight",
            .shared_router = "mlp.shared_expert_gate.weight",
        },
};
