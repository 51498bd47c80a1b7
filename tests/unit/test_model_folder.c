#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/hf_names.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "format/safetensors.h"
#include "format/shards.h"
#include "tensor/half.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/temporary.h"

static kd_backend *be;

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_backend_create_cpu(KD_F32, 1, &be), KD_OK));
}

static void leave(void)
{
    kd_backend_destroy(be);
    temporary_leave();
}

TestSuite(model_folder, .init = enter, .fini = leave);

static kd_model_config example(const kd_model_type *type)
{
    kd_model_config config = {
        .type = type,
        .vocab_size = 11,
        .hidden_size = 8,
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 2,
        .intermediate_size = 5,
        .n_experts = type->has_experts ? 3 : 0,
        .experts_per_token = type->has_experts ? 2 : 0,
        .shared_expert_size = type->has_shared_expert ? 6 : 0,
        .rope_theta = 1e4,
        .norm_eps = 1e-5f,
    };
    kd_model_config_apply_type(&config);
    return config;
}

static kd_parameters *create(kd_model_config config, kd_parameter_use use)
{
    kd_parameters *params;
    cr_assert(eq(int, kd_parameters_create(be, &config, use, &params), KD_OK), "%s",
              kd_fault_text());
    return params;
}

/* Element i has the value i + 1, so that every one is told from every other, and from padding. */
static kd_parameters *create_numbered(kd_model_config config)
{
    kd_parameters *params = create(config, KD_PARAMS_TRAIN);
    for (int e = 0; e < params->n_table; e++) {
        const kd_parameter *entry = &params->table[e];
        for (int64_t i = 0; i < entry->n_elements; i++) {
            const float value = (float)(entry->offset + i + 1);
            kd_parameters_write(params, entry->offset + i, &value, 1);
        }
    }
    return params;
}

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

static void save_numbered(const char *path, kd_model_config config, kd_dtype dtype)
{
    kd_parameters *params = create_numbered(config);
    cr_assert(eq(int, kd_model_folder_save(path, params, dtype), KD_OK), "%s", kd_fault_text());
    kd_parameters_destroy(params);
}

Test(model_folder, every_type_loads_back_bit_for_bit)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        kd_model_config read;
        kd_parameters *params = create_numbered(example(kd_model_type_at(i)));
        cr_assert(eq(int, kd_model_folder_save("m", params, KD_F32), KD_OK), "%s", kd_fault_text());
        cr_assert(eq(int, kd_model_folder_config("m", &read), KD_OK), "%s", kd_fault_text());
        kd_parameters *train = create(read, KD_PARAMS_TRAIN);
        kd_parameters *infer = create(read, KD_PARAMS_INFER);
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
    save_numbered("m", example(&kd_model_mixtral), KD_F32);
    for (int i = 0; i < 2; i++) {
        kd_parameters *params = create(example(&kd_model_mixtral), uses[i]);
        late_queue queue;
        late_queue_take(&queue, be);
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
    save_numbered("m", example(&kd_model_mixtral), KD_F32);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    kd_parameters *params = create(example(&kd_model_mixtral), KD_PARAMS_INFER);
    cr_expect(eq(int, kd_model_folder_load("m", params), KD_OK), "%s", kd_fault_text());

    cr_assert(eq(int, kd_file_read("m/model.safetensors", 1 << 20, &bytes, &size), KD_OK));
    bytes[size - 3] ^= 1;
    cr_assert(eq(int, kd_file_replace("m/model.safetensors", bytes, size), KD_OK));
    cr_expect(eq(int, kd_model_folder_load("m", params), KD_ERR_INVALID));
    EXPECT_FAULT("m/model.safetensors has the hash");
    free(bytes);
    kd_parameters_destroy(params);
}

Test(model_folder, the_same_weights_give_the_same_bytes)
{
    char *a, *b;
    size_t n_a, n_b;

    save_numbered("m", example(&kd_model_mixtral), KD_BF16);
    save_numbered("n", example(&kd_model_mixtral), KD_BF16);
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
    kd_parameters *params = create_numbered(example(&kd_model_llama));
    cr_assert(eq(int, kd_model_folder_save("m", params, KD_BF16), KD_OK));
    kd_parameters *back = create(example(&kd_model_llama), KD_PARAMS_TRAIN);
    cr_assert(eq(int, kd_model_folder_load("m", back), KD_OK));
    for (int e = 0; e < back->n_table; e++) {
        const int64_t last = back->table[e].offset + back->table[e].n_elements - 1;
        kd_parameters_read(back, last, &value, 1);
        cr_expect(value == kd_bf16_to_f32(kd_bf16_from_f32((float)(last + 1))), "entry %d", e);
    }
    kd_parameters_destroy(back);
    kd_parameters_destroy(params);
}

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
    kd_parameters *p = create_numbered(example(&kd_model_mixtral)); /* C 8, F 5, H D 8, G D 4 */
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
    kd_parameters *p = create_numbered(example(&kd_model_qwen2_moe));
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

    p = create_numbered(example(&kd_model_llama));
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
        kd_parameters *params = create(example(kd_model_type_at(t)), KD_PARAMS_INFER);
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

/* Writes the tensors of the numbered example under other names or shapes, as `path`. */
static void rewrite(const char *path, void (*change)(kd_safetensors_spec *specs, size_t *n))
{
    kd_safetensors *file;
    kd_safetensors_writer *writer;
    kd_safetensors_spec specs[64];
    float zeros[256] = {0};

    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    size_t n = kd_safetensors_count(file);
    for (size_t i = 0; i < n; i++) {
        const kd_safetensors_entry *e = kd_safetensors_at(file, i);
        specs[i] = (kd_safetensors_spec){e->name, e->dtype, e->n_dims, {e->dims[0], e->dims[1]}};
    }
    change(specs, &n);
    cr_assert(eq(int, kd_safetensors_create(path, specs, n, &writer), KD_OK));
    for (size_t i = 0; i < n; i++) {
        const int64_t columns = specs[i].n_dims > 1 ? specs[i].dims[1] : 1;
        cr_assert(
            eq(int, kd_safetensors_write_f32(writer, zeros, specs[i].dims[0] * columns), KD_OK));
    }
    cr_assert(eq(int, kd_safetensors_commit(writer), KD_OK));
    kd_safetensors_close(file);
}

static kd_status load_example(kd_model_config config)
{
    kd_parameters *params = create(config, KD_PARAMS_INFER);
    const kd_status st = kd_model_folder_load("m", params);
    kd_parameters_destroy(params);
    return st;
}

static kd_safetensors_spec *spec_of(kd_safetensors_spec *specs, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(specs[i].name, name) == 0) {
            return &specs[i];
        }
    }
    cr_assert(0, "%s", name);
    return NULL;
}

static void drop_norm(kd_safetensors_spec *specs, size_t *n)
{
    *spec_of(specs, *n, "model.norm.weight") = specs[*n - 1];
    (*n)--;
}

static void widen_head(kd_safetensors_spec *specs, size_t *n)
{
    spec_of(specs, *n, "lm_head.weight")->dims[0] = 13;
}

static void flatten_head(kd_safetensors_spec *specs, size_t *n)
{
    *spec_of(specs, *n, "lm_head.weight") = (kd_safetensors_spec){
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
    save_numbered("m", example(&kd_model_llama), KD_F32);
    rewrite("m/model.safetensors", drop_norm);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m: there is no tensor \"model.norm.weight\"");
    EXPECT_FAULT("another architecture");
}

Test(model_folder, a_wrong_shape_is_named_with_both_shapes)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    rewrite("m/model.safetensors", widen_head);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT(
        "m/model.safetensors: tensor \"lm_head.weight\" has shape (13, 8), expected (11, 8)");
    EXPECT_FAULT("another architecture");
    rewrite("m/model.safetensors", flatten_head);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("has shape (88), expected (11, 8)");
}

Test(model_folder, tensors_of_no_use_are_left_alone)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    rewrite("m/model.safetensors", add_others);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_OK), "%s", kd_fault_text());
}

Test(model_folder, another_architecture_is_refused)
{
    kd_model_config other = example(&kd_model_llama);
    save_numbered("m", example(&kd_model_mixtral), KD_F32);
    cr_expect(eq(int, load_example(other), KD_ERR_INVALID));
    other = example(&kd_model_mixtral);
    other.n_layers = 3;
    cr_expect(eq(int, load_example(other), KD_ERR_INVALID));
    EXPECT_FAULT("model.layers.2.");
}

Test(model_folder, a_folder_without_weights_or_configuration_is_not_found)
{
    kd_model_config config;
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("expected model.safetensors or model.safetensors.index.json");
    cr_expect(eq(int, kd_model_folder_config("m", &config), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("m/config.json");
}

static void only_head(kd_safetensors_spec *specs, size_t *n)
{
    specs[0] = *spec_of(specs, *n, "lm_head.weight");
    *n = 1;
}

static void all_but_head(kd_safetensors_spec *specs, size_t *n)
{
    *spec_of(specs, *n, "lm_head.weight") = specs[*n - 1];
    (*n)--;
}

/* Splits "m" in two shards and lists them, with one entry changed if asked for. */
static void put_shards(const char *name, const char *other_file)
{
    char text[8192];
    kd_safetensors *file;

    rewrite("m/one.safetensors", all_but_head);
    rewrite("m/two.safetensors", only_head);
    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    int at = snprintf(text, sizeof text, "{\"weight_map\": {");
    for (size_t i = 0; i < kd_safetensors_count(file); i++) {
        const char *tensor = kd_safetensors_at(file, i)->name;
        const char *shard =
            strcmp(tensor, "lm_head.weight") == 0 ? "two.safetensors" : "one.safetensors";
        at += snprintf(text + at, sizeof text - (size_t)at, "%s\"%s\": \"%s\"", i > 0 ? ", " : "",
                       tensor, name != NULL && strcmp(tensor, name) == 0 ? other_file : shard);
    }
    at += snprintf(text + at, sizeof text - (size_t)at, "}}");
    kd_safetensors_close(file);
    cr_assert(unlink("m/model.safetensors") == 0);
    cr_assert(eq(int, kd_file_replace("m/model.safetensors.index.json", text, (size_t)at), KD_OK));
}

Test(model_folder, shards_are_read_through_their_index)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_OK), "%s", kd_fault_text());
}

Test(model_folder, an_index_that_puts_a_tensor_into_the_wrong_shard_is_refused)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards("model.norm.weight", "two.safetensors");
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("tensor \"model.norm.weight\" is not in two.safetensors");
}

Test(model_folder, an_index_that_leads_elsewhere_is_refused)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards("model.norm.weight", "../one.safetensors");
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("expected the name of a file in the same folder, found \"../one.safetensors\"");
}

Test(model_folder, a_shard_that_is_not_there_is_not_found)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(unlink("m/two.safetensors") == 0);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("m/two.safetensors");
}

Test(model_folder, an_index_is_read_with_signs_of_progress_and_within_bounds)
{
    const char *index = "m/model.safetensors.index.json";
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    kd_shards *shards;
    const uint64_t before = kd_progress_count();
    cr_assert(eq(int, kd_shards_open("m", &shards), KD_OK));
    cr_expect(ge(u64, kd_progress_count() - before, 2));
    kd_shards_close(shards);
    cr_assert(truncate(index, (32 << 20) + 1) == 0);
    cr_expect(eq(int, kd_shards_open("m", &shards), KD_ERR_INVALID));
    EXPECT_FAULT("index.json is too large: expected at most 33554432 bytes");
}

Test(model_folder, an_index_that_is_not_one_is_refused)
{
    const char *index = "m/model.safetensors.index.json";
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_assert(eq(int, kd_file_replace(index, "{", 1), KD_OK));
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("index.json:1:");
    cr_assert(eq(int, kd_file_replace(index, "{}", 2), KD_OK));
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("\"weight_map\"");
}

/* Values of another model: loaded in place of the shards, nothing would tell. */
Test(model_folder, a_file_dropped_beside_sealed_shards_is_not_loaded)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_OK), "%s", kd_fault_text());
    save_numbered("n", example(&kd_model_llama), KD_F32);
    cr_assert(rename("n/model.safetensors", "m/model.safetensors") == 0);
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m/manifest.json does not list model.safetensors");
}

Test(model_folder, a_manifest_that_lists_nothing_vouches_for_nothing)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    temporary_write("m/manifest.json", "{\"version\": 1, \"files\": {}}");
    cr_expect(eq(int, load_example(example(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m/manifest.json does not list config.json");
}

static kd_status load_head(void)
{
    kd_tensor head;
    const kd_status st = kd_model_folder_load_lm_head("m", be, KD_F32, &head);
    if (!st) {
        be->ops->free(be, head.data);
    }
    return st;
}

static void flip_last_bit(const char *path)
{
    char *bytes;
    size_t size;
    cr_assert(eq(int, kd_file_read(path, 1 << 20, &bytes, &size), KD_OK));
    bytes[size - 1] ^= 1;
    cr_assert(eq(int, kd_file_replace(path, bytes, size), KD_OK));
    free(bytes);
}

Test(model_folder, the_lm_head_of_a_sealed_folder_is_verified)
{
    save_numbered("m", example(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(eq(int, load_head(), KD_OK), "%s", kd_fault_text());
    flip_last_bit("m/one.safetensors");
    cr_expect(eq(int, load_head(), KD_OK), "the head is not in this one");
    flip_last_bit("m/two.safetensors");
    cr_expect(eq(int, load_head(), KD_ERR_INVALID));
    EXPECT_FAULT("m/two.safetensors has the hash");
    temporary_write("m/manifest.json", "{\"version\": 1, \"files\": {}}");
    cr_expect(eq(int, load_head(), KD_ERR_INVALID));
    EXPECT_FAULT("does not list config.json");
}

static void expect_head(kd_dtype compute, kd_model_config config, kd_parameter_role role)
{
    kd_backend *other;
    kd_tensor head;

    kd_parameters *params = create_numbered(config);
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
    kd_model_config config = example(&kd_model_qwen3_moe);
    expect_head(KD_F32, config, KD_PARAM_LM_HEAD);
    expect_head(KD_BF16, config, KD_PARAM_LM_HEAD);
    config.tied_embeddings = true;
    expect_head(KD_F32, config, KD_PARAM_EMBEDDING);
}

Test(model_folder, a_folder_that_cannot_be_made_is_reported)
{
    cr_assert(eq(int, kd_file_replace("file", "x", 1), KD_OK));
    kd_parameters *params = create(example(&kd_model_llama), KD_PARAMS_TRAIN);
    cr_expect(eq(int, kd_model_folder_save("file/m", params, KD_F32), KD_ERR_INVALID));
    EXPECT_FAULT("file");
    kd_parameters_destroy(params);
}

/* What a shape does not have, but the tools that load the model do. */
Test(model_folder, a_model_started_from_a_checkpoint_keeps_what_its_config_said)
{
    char *text;
    size_t size;
    kd_parameters *params = create_numbered(example(&kd_model_mixtral));
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

    params = create(example(&kd_model_mixtral), KD_PARAMS_TRAIN);
    cr_assert(eq(int, kd_model_folder_load("m", params), KD_OK), "%s", kd_fault_text());
    cr_assert(eq(int, kd_model_folder_save("n", params, KD_BF16), KD_OK), "%s", kd_fault_text());
    kd_parameters_destroy(params);
    cr_assert(eq(int, kd_file_read("n/config.json", 1 << 20, &text, &size), KD_OK));
    cr_expect(strstr(text, "\"router_aux_loss_coef\": 0.02") != NULL, "%s", text);
    cr_expect(strstr(text, "\"torch_dtype\": \"bfloat16\"") != NULL, "%s", text);
    free(text);
}
