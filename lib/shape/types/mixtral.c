/* mixtral.c - experts whose weights always sum to 1, and names of its own for all of them. */
#include "shape/type.h"

static const kd_fixed_key fixed[] = {
    {NULL, NULL},
};

const kd_model_type kd_model_mixtral = {
    .name = "mixtral",
    .architecture = "MixtralForCausalLM",
    .has_experts = true,
    .norm_topk = true,
    .window = KD_WINDOW_GIVEN,
    .key_intermediate_size = "intermediate_size",
    .key_num_experts = "num_local_experts",
    .rope_theta = 1e6,
    .fixed = fixed,
    .mlp =
        {
            .router = "block_sparse_moe.gate.weight",
            .gate = "block_sparse_moe.experts.*.w1.weight",
            .up = "block_sparse_moe.experts.*.w3.weight",
            .down = "block_sparse_moe.experts.*.w2.weight",
        },
};
