/* Under which names tensors stand in a file, and at which place each begins. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>

#include "base/log.h"
#include "format/hf_names.h"
#include "format/model_folder.h"
#include "tests/support/numbered_model.h"

/* The first and last value of a tensor, given the role, layer and element it must begin at. */
static void expect_place(const kd_safetensors *file,
                         const kd_parameters *params,
                         const char *name,
                         kd_parameter_role role,
                         int64_t layer,
                         int64_t first)
{
    float value;
    const kd_safetensors_entry *entry = kd_safetensors_find(file, name);
    const kd_parameter *parameter = kd_parameters_find(params, role, layer);
    cr_assert(entry != NULL && parameter != NULL, "%s", name);
    cr_assert(eq(int, kd_safetensors_read_f32(entry, 0, 1, &value), KD_OK));
    cr_expect(eq(flt, value, (float)(parameter->offset + first + 1)), "%s", name);
    cr_assert(eq(int, kd_safetensors_read_f32(entry, entry->n_elements - 1, 1, &value), KD_OK));
    cr_expect(eq(flt, value, (float)(parameter->offset + first + entry->n_elements)), "%s", name);
}

Test(model_folder, mixtral_tensors_have_their_names_and_places)
{
    kd_safetensors *file;
    kd_parameters *p =
        numbered_create(numbered_config(&kd_model_mixtral)); /* C 8, F 5, H D 8, G D 4 */
    cr_assert(eq(int, kd_model_folder_save("m", p, KD_F32), KD_OK));
    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    cr_expect(eq(sz, kd_safetensors_count(file), 3 + 2 * (2 + 4 + 1 + 9)));
    expect_place(file, p, "model.embed_tokens.weight", KD_PARAM_EMBEDDING, 0, 0);
    expect_place(file, p, "model.layers.0.self_attn.q_proj.weight", KD_PARAM_QKV, 0, 0);
    expect_place(file, p, "model.layers.1.self_attn.k_proj.weight", KD_PARAM_QKV, 1, 64);
    expect_place(file, p, "model.layers.1.self_attn.v_proj.weight", KD_PARAM_QKV, 1, 96);
    expect_place(file, p, "model.layers.1.self_attn.o_proj.weight", KD_PARAM_ATTENTION_OUT, 1, 0);
    expect_place(file, p, "model.layers.1.block_sparse_moe.gate.weight", KD_PARAM_ROUTER, 1, 0);
    expect_place(file, p, "model.layers.1.block_sparse_moe.experts.2.w1.weight", KD_PARAM_GATE_UP,
                 1, 2 * 80);
    expect_place(file, p, "model.layers.1.block_sparse_moe.experts.2.w3.weight", KD_PARAM_GATE_UP,
                 1, 2 * 80 + 40);
    expect_place(file, p, "model.layers.0.block_sparse_moe.experts.1.w2.weight", KD_PARAM_DOWN, 0,
                 40);
    expect_place(file, p, "model.layers.0.input_layernorm.weight", KD_PARAM_ATTENTION_NORM, 0, 0);
    expect_place(file, p, "model.layers.0.post_attention_layernorm.weight", KD_PARAM_MLP_NORM, 0,
                 0);
    expect_place(file, p, "model.norm.weight", KD_PARAM_FINAL_NORM, 0, 0);
    expect_place(file, p, "lm_head.weight", KD_PARAM_LM_HEAD, 0, 0);
    kd_safetensors_close(file);
    kd_parameters_destroy(p);
}

Test(model_folder, qwen_and_llama_tensors_have_their_names_and_places)
{
    kd_safetensors *file;
    kd_parameters *p = numbered_create(numbered_config(&kd_model_qwen2_moe));
    cr_assert(eq(int, kd_model_folder_save("m", p, KD_F32), KD_OK));
    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    expect_place(file, p, "model.layers.1.self_attn.v_proj.bias", KD_PARAM_QKV_BIAS, 1, 12);
    expect_place(file, p, "model.layers.0.mlp.gate.weight", KD_PARAM_ROUTER, 0, 0);
    expect_place(file, p, "model.layers.0.mlp.experts.1.up_proj.weight", KD_PARAM_GATE_UP, 0, 120);
    expect_place(file, p, "model.layers.0.mlp.experts.2.down_proj.weight", KD_PARAM_DOWN, 0, 80);
    expect_place(file, p, "model.layers.0.mlp.shared_expert.up_proj.weight",
                 KD_PARAM_SHARED_GATE_UP, 0, 48);
    expect_place(file, p, "model.layers.0.mlp.shared_expert.down_proj.weight", KD_PARAM_SHARED_DOWN,
                 0, 0);
    expect_place(file, p, "model.layers.0.mlp.shared_expert_gate.weight", KD_PARAM_SHARED_GATE, 0,
                 0);
    kd_safetensors_close(file);
    kd_parameters_destroy(p);

    p = numbered_create(numbered_config(&kd_model_llama));
    cr_assert(eq(int, kd_model_folder_save("l", p, KD_F32), KD_OK));
    cr_assert(eq(int, kd_safetensors_open("l/model.safetensors", &file), KD_OK));
    expect_place(file, p, "model.layers.1.mlp.up_proj.weight", KD_PARAM_GATE_UP, 1, 40);
    expect_place(file, p, "model.layers.1.mlp.down_proj.weight", KD_PARAM_DOWN, 1, 0);
    kd_safetensors_close(file);
    kd_parameters_destroy(p);
}

Test(model_folder, the_names_cover_every_parameter_once)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        kd_hf_tensor *tensors;
        size_t n;
        int64_t covered = 0, expected = 0, end = 0;
        kd_parameters *params =
            numbered_params(numbered_config(kd_model_type_at(t)), KD_PARAMS_INFER);
        cr_assert(eq(int, kd_hf_tensors_list(params, &tensors, &n), KD_OK));
        for (size_t i = 0; i < n; i++) {
            cr_expect(tensors[i].offset >= end, "%s", tensors[i].name);
            cr_expect(eq(i64, tensors[i].n_elements, tensors[i].dims[0] * tensors[i].dims[1]));
            end = tensors[i].offset + tensors[i].n_elements;
            covered += tensors[i].n_elements;
        }
        for (int e = 0; e < params->n_table; e++) {
            expected += params->table[e].n_elements;
        }
        cr_expect(eq(i64, covered, expected));
        free(tensors);
        kd_parameters_destroy(params);
    }
}
