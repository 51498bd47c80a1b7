/* A model folder written and read: values, dtypes, the lm_head alone, and what is refused. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "tensor/half.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/numbered_model.h"
#include "tests/support/temporary.h"

TestSuite(model_folder, .init = numbered_enter, .fini = numbered_leave);

static void expect_same_values(const kd_parameters *a, const kd_parameters *b)
{
    cr_assert(eq(i64, a->n_elements, b->n_elements));
    const size_t size = (size_t)a->n_elements * sizeof(float);
    float *x = malloc(size), *y = malloc(size);
    kd_parameters_read(a, 0, x, a->n_elements);
    kd_parameters_read(b, 0, y, b->n_elements);
    cr_expect(memcmp(x, y, size) == 0);
    free(x);
    free(y);
}

Test(model_folder, every_type_loads_back_bit_for_bit)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        kd_model_config read;
        kd_parameters *params = numbered_create(numbered_config(kd_model_type_at(i)));
        cr_assert(eq(int, kd_model_folder_save("m", params, KD_F32), KD_OK), "%s", kd_fault_text());
        cr_assert(eq(int, kd_model_folder_config("m", &read), KD_OK), "%s", kd_fault_text());
        kd_parameters *train = numbered_params(read, KD_PARAMS_TRAIN);
        kd_parameters *infer = numbered_params(read, KD_PARAMS_INFER);
        cr_assert(eq(int, kd_model_folder_load("m", train), KD_OK), "%s", kd_fault_text());
        cr_assert(eq(int, kd_model_folder_load("m", infer), KD_OK), "%s", kd_fault_text());
        expect_same_values(train, params);
        expect_same_values(infer, params);
        kd_parameters_destroy(infer);
        kd_parameters_destroy(train);
        kd_parameters_destroy(params);
    }
}

Test(model_folder, the_host_waits_once_for_all_tensors)
{
    const kd_parameter_use uses[] = {KD_PARAMS_TRAIN, KD_PARAMS_INFER};
    numbered_save("m", numbered_config(&kd_model_mixtral), KD_F32);
    for (int i = 0; i < 2; i++) {
        kd_parameters *params = numbered_params(numbered_config(&kd_model_mixtral), uses[i]);
        late_queue queue;
        late_queue_take(&queue, numbered_backend());
        cr_assert(eq(int, kd_model_folder_load("m", params), KD_OK), "%s", kd_fault_text());
        late_queue_give_back(&queue);
        cr_expect(eq(int, queue.n_waits, 1));
        kd_parameters_destroy(params);
    }
}

Test(model_folder, a_sealed_folder_with_a_flipped_bit_is_not_loaded)
{
    char *bytes;
    size_t size;
    numbered_save("m", numbered_config(&kd_model_mixtral), KD_F32);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    kd_parameters *params = numbered_params(numbered_config(&kd_model_mixtral), KD_PARAMS_INFER);
    cr_expect(eq(int, kd_model_folder_load("m", params), KD_OK), "%s", kd_fault_text());

    cr_assert(eq(int, kd_file_read("m/model.safetensors", 1 << 20, &bytes, &size), KD_OK));
    bytes[size - 3] ^= 1;
    cr_assert(eq(int, kd_file_replace("m/model.safetensors", bytes, size), KD_OK));
    cr_expect(eq(int, kd_model_folder_load("m", params), KD_ERR_INVALID));
    EXPECT_FAULT("m/model.safetensors has the hash");
    free(bytes);
    kd_parameters_destroy(params);
}

Test(model_folder, a_process_that_is_to_end_saves_but_loads_no_more)
{
    kd_parameters *params = numbered_params(numbered_config(&kd_model_mixtral), KD_PARAMS_INFER);
    kd_progress_stop();
    numbered_save("m", numbered_config(&kd_model_mixtral), KD_F32);
    cr_expect(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(eq(int, kd_model_folder_load("m", params), KD_ERR_STOPPED));
    EXPECT_FAULT("asked to end");
    cr_expect(eq(int, kd_manifest_verify("m"), KD_ERR_STOPPED));
    kd_parameters_destroy(params);
}

Test(model_folder, the_same_weights_give_the_same_bytes)
{
    char *a, *b;
    size_t n_a, n_b;

    numbered_save("m", numbered_config(&kd_model_mixtral), KD_BF16);
    numbered_save("n", numbered_config(&kd_model_mixtral), KD_BF16);
    cr_assert(eq(int, kd_file_read("m/model.safetensors", 1 << 20, &a, &n_a), KD_OK));
    cr_assert(eq(int, kd_file_read("n/model.safetensors", 1 << 20, &b, &n_b), KD_OK));
    cr_assert(eq(sz, n_a, n_b));
    cr_expect(memcmp(a, b, n_a) == 0);
    free(a);
    free(b);
}

Test(model_folder, bf16_files_hold_the_rounded_values)
{
    float value;
    kd_parameters *params = numbered_create(numbered_config(&kd_model_llama));
    cr_assert(eq(int, kd_model_folder_save("m", params, KD_BF16), KD_OK));
    kd_parameters *back = numbered_params(numbered_config(&kd_model_llama), KD_PARAMS_TRAIN);
    cr_assert(eq(int, kd_model_folder_load("m", back), KD_OK));
    for (int e = 0; e < back->n_table; e++) {
        const int64_t last = back->table[e].offset + back->table[e].n_elements - 1;
        kd_parameters_read(back, last, &value, 1);
        cr_expect(value == kd_bf16_to_f32(kd_bf16_from_f32((float)(last + 1))), "entry %d", e);
    }
    kd_parameters_destroy(back);
    kd_parameters_destroy(params);
}

static void drop_norm(kd_safetensors_spec *specs, size_t *n)
{
    *numbered_spec(specs, *n, "model.norm.weight") = specs[*n - 1];
    (*n)--;
}

static void widen_head(kd_safetensors_spec *specs, size_t *n)
{
    numbered_spec(specs, *n, "lm_head.weight")->dims[0] = 13;
}

static void flatten_head(kd_safetensors_spec *specs, size_t *n)
{
    *numbered_spec(specs, *n, "lm_head.weight") = (kd_safetensors_spec){
        .name = "lm_head.weight", .dtype = KD_SAFETENSORS_F32, .n_dims = 1, .dims = {88}};
}

static void add_others(kd_safetensors_spec *specs, size_t *n)
{
    const char *names[] = {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.9.odd"};
    for (int i = 0; i < 2; i++) {
        specs[(*n)++] = (kd_safetensors_spec){
            .name = names[i], .dtype = KD_SAFETENSORS_F32, .n_dims = 1, .dims = {2}};
    }
}

Test(model_folder, a_missing_tensor_is_named)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    numbered_rewrite("m/model.safetensors", drop_norm);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m: there is no tensor \"model.norm.weight\"");
    EXPECT_FAULT("another architecture");
}

Test(model_folder, a_wrong_shape_is_named_with_both_shapes)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    numbered_rewrite("m/model.safetensors", widen_head);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT(
        "m/model.safetensors: tensor \"lm_head.weight\" has shape (13, 8), expected (11, 8)");
    EXPECT_FAULT("another architecture");
    numbered_rewrite("m/model.safetensors", flatten_head);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("has shape (88), expected (11, 8)");
}

/* Checking alone refuses what loading refuses, of a folder whose values nobody has room for. */
Test(model_folder, a_check_sees_what_a_load_would_refuse)
{
    kd_backend *rehearsal;
    kd_parameters *params;
    const kd_model_config config = numbered_config(&kd_model_llama);
    cr_assert(eq(int, kd_backend_create_rehearsal(KD_F32, 1, &rehearsal), KD_OK));
    cr_assert(eq(int, kd_parameters_create(rehearsal, &config, KD_PARAMS_INFER, &params), KD_OK));

    numbered_save("m", config, KD_F32);
    cr_expect(eq(int, kd_model_folder_check("m", params), KD_OK), "%s", kd_fault_text());
    numbered_rewrite("m/model.safetensors", drop_norm);
    cr_expect(eq(int, kd_model_folder_check("m", params), KD_ERR_INVALID));
    EXPECT_FAULT("m: there is no tensor \"model.norm.weight\"");
    cr_assert(eq(int, kd_file_replace("m/model.safetensors", "", 0), KD_OK));
    cr_expect(eq(int, kd_model_folder_check("m", params), KD_ERR_PROTO));
    EXPECT_FAULT("m/model.safetensors");
    cr_assert(eq(int, remove("m/model.safetensors"), 0));
    cr_expect(eq(int, kd_model_folder_check("m", params), KD_ERR_NOT_FOUND));

    numbered_save("sealed", config, KD_F32);
    cr_assert(eq(int, kd_manifest_write("sealed"), KD_OK));
    numbered_save("sealed", config, KD_BF16);
    cr_expect(eq(int, kd_model_folder_check("sealed", params), KD_ERR_INVALID));
    EXPECT_FAULT("sealed/config.json");
    kd_parameters_destroy(params);
    kd_backend_destroy(rehearsal);
}

Test(model_folder, tensors_of_no_use_are_left_alone)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    numbered_rewrite("m/model.safetensors", add_others);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_OK), "%s",
              kd_fault_text());
}

Test(model_folder, another_architecture_is_refused)
{
    kd_model_config other = numbered_config(&kd_model_llama);
    numbered_save("m", numbered_config(&kd_model_mixtral), KD_F32);
    cr_expect(eq(int, numbered_load(other), KD_ERR_INVALID));
    other = numbered_config(&kd_model_mixtral);
    other.n_layers = 3;
    cr_expect(eq(int, numbered_load(other), KD_ERR_INVALID));
    EXPECT_FAULT("model.layers.2.");
}

Test(model_folder, a_folder_without_weights_or_configuration_is_not_found)
{
    kd_model_config config;
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("expected model.safetensors or model.safetensors.index.json");
    cr_expect(eq(int, kd_model_folder_config("m", &config), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("m/config.json");
}

static void expect_head(kd_dtype compute, kd_model_config config, kd_parameter_role role)
{
    kd_backend *other;
    kd_tensor head;

    kd_parameters *params = numbered_create(config);
    cr_assert(eq(int, kd_model_folder_save("m", params, KD_F32), KD_OK));
    cr_assert(eq(int, kd_backend_create_cpu(KD_F32, 1, &other), KD_OK));
    cr_assert(eq(int, kd_model_folder_load_lm_head("m", other, compute, &head), KD_OK), "%s",
              kd_fault_text());
    cr_expect(eq(i64, head.dims[0], 11));
    cr_expect(eq(i64, head.dims[1], 8));
    cr_expect(eq(int, (int)head.dtype, (int)compute));
    const int64_t first = kd_parameters_find(params, role, 0)->offset + 1;
    float f[88];
    uint16_t h[88];
    other->ops->download(other, compute == KD_F32 ? (void *)f : (void *)h, head);
    for (int i = 0; i < 88; i++) {
        const float value = (float)(first + i);
        cr_expect(compute == KD_F32 ? f[i] == value : h[i] == kd_bf16_from_f32(value), "%d", i);
    }
    other->ops->free(other, head.data);
    kd_backend_destroy(other);
    kd_parameters_destroy(params);
}

Test(model_folder, the_lm_head_loads_alone)
{
    kd_model_config config = numbered_config(&kd_model_qwen3_moe);
    expect_head(KD_F32, config, KD_PARAM_LM_HEAD);
    expect_head(KD_BF16, config, KD_PARAM_LM_HEAD);
    config.tied_embeddings = true;
    expect_head(KD_F32, config, KD_PARAM_EMBEDDING);
}

Test(model_folder, a_folder_that_cannot_be_made_is_reported)
{
    cr_assert(eq(int, kd_file_replace("file", "x", 1), KD_OK));
    kd_parameters *params = numbered_params(numbered_config(&kd_model_llama), KD_PARAMS_TRAIN);
    cr_expect(eq(int, kd_model_folder_save("file/m", params, KD_F32), KD_ERR_INVALID));
    EXPECT_FAULT("file");
    kd_parameters_destroy(params);
}

/* What a shape does not have, but the tools that load the model do. */
Test(model_folder, a_model_started_from_a_checkpoint_keeps_what_its_config_said)
{
    char *text;
    size_t size;
    kd_parameters *params = numbered_create(numbered_config(&kd_model_mixtral));
    cr_assert(eq(int, kd_model_folder_save("m", params, KD_F32), KD_OK));
    kd_parameters_destroy(params);
    cr_assert(eq(int, kd_file_read("m/config.json", 1 << 20, &text, &size), KD_OK));
    char *end = strrchr(text, '}');
    cr_assert_not_null(end);
    char spoken[4096];
    (void)snprintf(spoken, sizeof spoken, "%.*s, \"router_aux_loss_coef\": 0.02}",
                   (int)(end - text), text);
    free(text);
    temporary_write("m/config.json", spoken);

    params = numbered_params(numbered_config(&kd_model_mixtral), KD_PARAMS_TRAIN);
    cr_assert(eq(int, kd_model_folder_load("m", params), KD_OK), "%s", kd_fault_text());
    cr_assert(eq(int, kd_model_folder_save("n", params, KD_BF16), KD_OK), "%s", kd_fault_text());
    kd_parameters_destroy(params);
    cr_assert(eq(int, kd_file_read("n/config.json", 1 << 20, &text, &size), KD_OK));
    cr_expect(strstr(text, "\"router_aux_loss_coef\": 0.02") != NULL, "%s", text);
    cr_expect(strstr(text, "\"torch_dtype\": \"bfloat16\"") != NULL, "%s", text);
    free(text);
}
