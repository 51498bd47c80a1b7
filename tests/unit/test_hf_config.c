#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "shape/hf_config.h"
#include "shape/hf_config_cache.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
}

TestSuite(hf_config, .init = enter, .fini = temporary_leave);

static kd_status read_text(const char *text, kd_model_config *config)
{
    temporary_write("config.json", text);
    return kd_hf_config_read("config.json", config);
}

/* The fields that every type needs, and more behind them. */
static kd_status read_with(const char *more, kd_model_config *config)
{
    char text[2048];
    (void)snprintf(text, sizeof text,
                   "{\"vocab_size\": 100, \"hidden_size\": 64, \"num_hidden_layers\": 3, "
                   "\"num_attention_heads\": 4, \"rms_norm_eps\": 1e-5, "
                   "\"intermediate_size\": 80, %s}",
                   more);
    return read_text(text, config);
}

#define LLAMA "\"model_type\": \"llama\""
#define MIXTRAL                                                                                    \
    "\"model_type\": \"mixtral\", \"num_key_value_heads\": 2, \"num_local_experts\": 8, "          \
    "\"num_experts_per_tok\": 2"
#define QWEN3                                                                                      \
    "\"model_type\": \"qwen3_moe\", \"num_key_value_heads\": 2, \"moe_intermediate_size\": 24, "   \
    "\"num_experts_per_tok\": 2"

static void expect_refused(const char *more, kd_status st, const char *field, const char *expected)
{
    kd_model_config config = {.vocab_size = 7};
    cr_expect(eq(int, read_with(more, &config), st), "%s: %s", more, kd_fault_text());
    cr_expect(eq(i64, config.vocab_size, 7), "%s", more);
    EXPECT_FAULT("config.json: ");
    EXPECT_FAULT(field);
    EXPECT_FAULT(expected);
}

static kd_model_config example(const kd_model_type *type)
{
    kd_model_config config = {
        .type = type,
        .vocab_size = 1000,
        .hidden_size = 64,
        .n_layers = 3,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 16,
        .intermediate_size = 48,
        .n_experts = type->has_experts ? 6 : 0,
        .experts_per_token = type->has_experts ? 3 : 0,
        .shared_expert_size = type->has_shared_expert ? 40 : 0,
        .rope_theta = 500000.1234567891,
        .norm_eps = 1e-6f,
        .max_positions = 2048,
    };
    kd_model_config_apply_type(&config);
    return config;
}

static void expect_same(kd_model_config a, kd_model_config b)
{
    cr_expect(eq(int, a.type == b.type, 1));
    cr_expect(eq(i64, a.vocab_size, b.vocab_size));
    cr_expect(eq(i64, a.hidden_size, b.hidden_size));
    cr_expect(eq(i64, a.n_layers, b.n_layers));
    cr_expect(eq(i64, a.n_heads, b.n_heads));
    cr_expect(eq(i64, a.n_kv_heads, b.n_kv_heads));
    cr_expect(eq(i64, a.head_dim, b.head_dim));
    cr_expect(eq(i64, a.intermediate_size, b.intermediate_size));
    cr_expect(eq(i64, a.n_experts, b.n_experts));
    cr_expect(eq(i64, a.experts_per_token, b.experts_per_token));
    cr_expect(eq(i64, a.shared_expert_size, b.shared_expert_size));
    cr_expect(eq(int, a.norm_topk, b.norm_topk));
    cr_expect(eq(int, a.qkv_bias, b.qkv_bias));
    cr_expect(eq(int, (int)a.qk_norm, (int)b.qk_norm));
    cr_expect(eq(int, a.tied_embeddings, b.tied_embeddings));
    cr_expect(a.rope_theta == b.rope_theta);
    cr_expect(a.norm_eps == b.norm_eps);
    cr_expect(eq(i64, a.max_positions, b.max_positions));
    cr_expect(eq(i64, a.window, b.window));
}

static void expect_round_trip(kd_model_config config)
{
    kd_model_config back;
    cr_assert(eq(int, kd_hf_config_write("c.json", &config, "float32", NULL), KD_OK), "%s",
              kd_fault_text());
    cr_assert(eq(int, kd_hf_config_read("c.json", &back), KD_OK), "%s", kd_fault_text());
    expect_same(back, config);
}

Test(hf_config, every_type_reads_back_as_it_was_written)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        kd_model_config config = example(kd_model_type_at(i));
        expect_round_trip(config);
        config.tied_embeddings = true;
        config.rope_theta = 10000.0;
        config.max_positions = 0;
        config.norm_eps = 0.1f / 3.0f;
        if (config.type->key_norm_topk != NULL) {
            config.norm_topk = !config.norm_topk;
        }
        if (config.type->window != KD_WINDOW_NEVER) {
            config.window = 40;
        }
        if (config.type == &kd_model_qwen3_moe) {
            config.head_dim = 32;
        }
        expect_round_trip(config);
    }
}

Test(hf_config, the_file_has_the_fields_that_others_read)
{
    const char *const parts[] = {
        "\"architectures\": [\n    \"Qwen2MoeForCausalLM\"",
        "\"model_type\": \"qwen2_moe\"",
        "\"torch_dtype\": \"bfloat16\"",
        "\"num_experts\": 6",
        "\"moe_intermediate_size\": 48",
        "\"shared_expert_intermediate_size\": 40",
        "\"rms_norm_eps\": 1e-6",
        "\"rope_type\": \"default\"",
        "\"tie_word_embeddings\": false",
        "\"eos_token_id\": null",
    };
    char *text;
    size_t size;
    kd_model_config config = example(&kd_model_qwen2_moe);

    config.rope_theta = 500000.0;
    cr_assert(eq(int, kd_hf_config_write("c.json", &config, "bfloat16", NULL), KD_OK));
    cr_assert(eq(int, kd_file_read("c.json", 1 << 16, &text, &size), KD_OK));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        cr_expect(strstr(text, parts[i]) != NULL, "%s not in %s", parts[i], text);
    }
    free(text);
}

Test(hf_config, what_the_source_said_is_written_again_unless_the_shape_says_it)
{
    static const char source[] =
        "{\"model_type\": \"qwen2_moe\", \"bos_token_id\": 151643, \"eos_token_id\": [1, 2], "
        "\"router_aux_loss_coef\": 0.001, \"output_router_logits\": true, \"vocab_size\": 5, "
        "\"intermediate_size\": 5632, \"dtype\": \"float16\", \"rope_scaling\": null, "
        "\"num_local_experts\": 9}";
    static const char *const kept[] = {
        "\"bos_token_id\": 151643",
        "\"eos_token_id\": [\n    1,\n    2\n  ]",
        "\"router_aux_loss_coef\": 0.001",
        "\"output_router_logits\": true",
        "\"intermediate_size\": 5632",
        "\"pad_token_id\": null",
        "\"vocab_size\": 1000",
        "\"torch_dtype\": \"float32\"",
        "\"num_experts\": 6",
    };
    static const char *const gone[] = {"\"dtype\": \"float16\"", "rope_scaling",
                                       "num_local_experts"};
    char *text;
    size_t size;
    kd_model_config config = example(&kd_model_qwen2_moe), back;

    config.rope_theta = 10000.0;
    cr_assert(eq(int, kd_hf_config_write("c.json", &config, "float32", source), KD_OK), "%s",
              kd_fault_text());
    cr_assert(eq(int, kd_file_read("c.json", 1 << 16, &text, &size), KD_OK));
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        cr_expect(strstr(text, kept[i]) != NULL, "%s not in %s", kept[i], text);
    }
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) {
        cr_expect(strstr(text, gone[i]) == NULL, "%s in %s", gone[i], text);
    }
    free(text);
    cr_assert(eq(int, kd_hf_config_read("c.json", &back), KD_OK), "%s", kd_fault_text());
    expect_same(back, config);
    cr_expect(eq(int, kd_hf_config_write("c.json", &config, "float32", "[]"), KD_ERR_PROTO));
    cr_expect(eq(int, kd_hf_config_write("c.json", &config, "float32", "{"), KD_ERR_PROTO));
}

/* Also that of a source with layers by name, which say the same no more. */
Test(hf_config, a_window_is_the_shapes_whatever_the_source_said)
{
    static const char source[] = "{\"sliding_window\": 9, "
                                 "\"layer_types\": [\"sliding_attention\"]}";
    static const kd_model_type *const types[] = {&kd_model_mixtral, &kd_model_qwen3_moe};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        for (int window = 0; window <= 40; window += 40) {
            kd_model_config config = example(types[i]), back;
            config.window = window;
            cr_assert(eq(int, kd_hf_config_write("c.json", &config, "float32", source), KD_OK));
            cr_assert(eq(int, kd_hf_config_read("c.json", &back), KD_OK), "%s", kd_fault_text());
            expect_same(back, config);
        }
    }
    kd_model_config llama = example(&kd_model_llama);
    llama.window = 8;
    cr_expect(eq(int, kd_hf_config_write("c.json", &llama, "float32", NULL), KD_ERR_INVALID));
    EXPECT_FAULT("model.sliding_window: found 8, expected 0 to 0");
}

Test(hf_config, shapes_that_transformers_cannot_load_are_not_written)
{
    kd_model_config config = example(&kd_model_qwen2_moe);
    config.shared_expert_size = 0;
    cr_expect(eq(int, kd_hf_config_write("c.json", &config, "float32", NULL), KD_ERR_INVALID));
    EXPECT_FAULT("shared_expert_size: found 0, expected at least 1");
    config = example(&kd_model_llama);
    config.n_heads = 6;
    cr_expect(eq(int, kd_hf_config_write("c.json", &config, "float32", NULL), KD_ERR_INVALID));
    EXPECT_FAULT("num_heads: found 6, expected a divisor of hidden_size (64)");
    config = example(&kd_model_mixtral);
    config.norm_topk = false;
    cr_expect(eq(int, kd_model_config_check(&config), KD_ERR_INVALID));
    cr_expect(not(kd_file_exists("c.json")));
}

Test(hf_config, fields_left_out_take_the_defaults_of_their_type)
{
    kd_model_config config;
    cr_assert(eq(int, read_with(LLAMA, &config), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(i64, config.n_kv_heads, 4));
    cr_expect(eq(i64, config.head_dim, 16));
    cr_expect(eq(i64, config.max_positions, 0));
    cr_expect(config.rope_theta == 1e4);
    cr_expect(not(config.tied_embeddings));
    cr_assert(eq(int, read_with(MIXTRAL ", \"head_dim\": null", &config), KD_OK), "%s",
              kd_fault_text());
    cr_expect(config.rope_theta == 1e6);
    cr_expect(config.norm_topk);
    cr_assert(eq(int, read_with(QWEN3 ", \"num_experts\": 5", &config), KD_OK), "%s",
              kd_fault_text());
    cr_expect(not(config.norm_topk));
    cr_expect(eq(i64, config.intermediate_size, 24));
}

Test(hf_config, both_forms_of_the_rotary_settings_are_read)
{
    kd_model_config config;
    cr_assert(
        eq(int, read_with(LLAMA ", \"rope_theta\": 5000, \"rope_scaling\": null", &config), KD_OK));
    cr_expect(config.rope_theta == 5000.0);
    cr_assert(eq(int,
                 read_with(LLAMA ", \"rope_parameters\": {\"rope_type\": \"default\", "
                                 "\"rope_theta\": 6000.5}",
                           &config),
                 KD_OK));
    cr_expect(config.rope_theta == 6000.5);
}

Test(hf_config, both_names_of_the_expert_count_are_read)
{
    kd_model_config config;
    cr_assert(eq(int, read_with(QWEN3 ", \"num_experts\": 5", &config), KD_OK));
    cr_expect(eq(i64, config.n_experts, 5));
    cr_assert(eq(int, read_with(QWEN3 ", \"num_local_experts\": 6", &config), KD_OK));
    cr_expect(eq(i64, config.n_experts, 6));
}

Test(hf_config, what_the_decoder_does_not_have_is_refused)
{
    const struct {
        const char *more, *field;
    } cases[] = {
        {LLAMA ", \"hidden_act\": \"gelu\"", "\"hidden_act\" is \"gelu\""},
        {LLAMA ", \"attention_bias\": true", "\"attention_bias\" is true"},
        {LLAMA ", \"mlp_bias\": true", "\"mlp_bias\" is true"},
        {LLAMA ", \"quantization_config\": {\"bits\": 4}",
         "\"quantization_config\" is {\"bits\":4}"},
        {LLAMA ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}",
         "\"type\" is \"linear\""},
        {LLAMA ", \"rope_scaling\": {\"rope_type\": \"llama3\"}", "\"rope_type\" is \"llama3\""},
        {LLAMA ", \"rope_parameters\": {\"rope_type\": \"yarn\"}", "\"rope_type\" is \"yarn\""},
        {LLAMA ", \"partial_rotary_factor\": 0.5", "\"partial_rotary_factor\" is 0.5"},
        {LLAMA ", \"rope_theta\": 0", "\"rope_theta\" is 0"},
        {LLAMA ", \"use_sliding_window\": true", "\"use_sliding_window\" is true"},
        {MIXTRAL ", \"use_sliding_window\": true", "\"use_sliding_window\" is true"},
        {MIXTRAL ", \"sliding_window\": 0", "\"sliding_window\" is 0"},
        {MIXTRAL ", \"sliding_window\": 8, \"layer_types\": [\"full_attention\"]",
         "\"layer_types\" is \"full_attention\""},
        {QWEN3 ", \"num_experts\": 4, \"use_sliding_window\": true, \"sliding_window\": -1",
         "\"sliding_window\" is -1"},
        {QWEN3 ", \"num_experts\": 4, \"mlp_only_layers\": [1]", "\"mlp_only_layers\" is [1]"},
        {QWEN3 ", \"num_experts\": 4, \"decoder_sparse_step\": 2", "\"decoder_sparse_step\" is 2"},
        {QWEN3 ", \"num_experts\": 4, \"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "\"layer_types\" is \"sliding_attention\""},
        {QWEN3 ", \"num_experts\": 4, \"clip_qkv\": 8", "\"clip_qkv\" is 8"},
        {QWEN3 ", \"num_experts\": 0", "\"num_experts\" is 0"},
        {QWEN3 ", \"num_experts\": 1", "experts_per_token: found 2"},
        {LLAMA ", \"head_dim\": 15", "head_dim: found 15"},
        {LLAMA ", \"num_key_value_heads\": 3", "num_kv_heads: found 3"},
        {"\"model_type\": \"qwen3_mo\"", "did you mean \"qwen3_moe\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        expect_refused(cases[i].more, KD_ERR_INVALID, cases[i].field, "expected");
    }
}

Test(hf_config, a_sliding_window_that_is_not_used_is_fine)
{
    kd_model_config config;
    cr_expect(eq(int,
                 read_with(QWEN3 ", \"num_experts\": 4, \"use_sliding_window\": false, "
                                 "\"sliding_window\": 4096, \"mlp_only_layers\": []",
                           &config),
                 KD_OK));
}

/* As the code of each type has it. */
Test(hf_config, a_sliding_window_is_read)
{
    static const struct {
        const char *more;
        int64_t window;
    } cases[] = {
        {MIXTRAL, 0},
        {MIXTRAL ", \"sliding_window\": null", 0},
        {MIXTRAL ", \"sliding_window\": 1", 1},
        {MIXTRAL ", \"sliding_window\": 4096, \"layer_types\": [\"sliding_attention\"]", 4096},
        {LLAMA ", \"sliding_window\": 4096", 0},
        {QWEN3 ", \"num_experts\": 4, \"sliding_window\": 7", 0},
        {QWEN3 ", \"num_experts\": 4, \"use_sliding_window\": true, \"sliding_window\": 7", 7},
        {QWEN3 ", \"num_experts\": 4, \"use_sliding_window\": true", 4096},
        {QWEN3 ", \"num_experts\": 4, \"use_sliding_window\": true, \"sliding_window\": null", 0},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kd_model_config config = {0};
        cr_expect(eq(int, read_with(cases[i].more, &config), KD_OK), "%s", cases[i].more);
        cr_expect(eq(i64, config.window, cases[i].window), "%s", cases[i].more);
    }
}

Test(hf_config, missing_fields_and_wrong_types_are_named)
{
    expect_refused(QWEN3, KD_ERR_PROTO, "there is no \"num_experts\"", "expected an integer");
    expect_refused("\"a\": 1", KD_ERR_PROTO, "there is no \"model_type\"", "expected a string");
    expect_refused("\"model_type\": 5", KD_ERR_PROTO, "\"model_type\" is 5", "expected a string");
    expect_refused("\"model_type\": \"mixtral\"", KD_ERR_PROTO,
                   "there is no \"num_key_value_heads\"", "expected an integer");
    expect_refused(LLAMA ", \"head_dim\": \"16\"", KD_ERR_PROTO, "\"head_dim\" is \"16\"",
                   "expected an integer");
    expect_refused(LLAMA ", \"tie_word_embeddings\": 1", KD_ERR_PROTO,
                   "\"tie_word_embeddings\" is 1", "expected true or false");
    expect_refused(LLAMA ", \"rope_theta\": \"x\"", KD_ERR_PROTO, "\"rope_theta\" is \"x\"",
                   "expected a number");
    expect_refused(LLAMA ", \"rope_scaling\": 2", KD_ERR_PROTO, "\"rope_scaling\" is 2",
                   "expected an object");
    expect_refused(LLAMA ", \"max_position_embeddings\": -1", KD_ERR_INVALID,
                   "\"max_position_embeddings\" is -1", "expected an integer from 1");
}

Test(hf_config, what_is_no_json_object_is_refused_with_its_place)
{
    kd_model_config config;
    cr_expect(eq(int, read_text("{\n  \"a\": ,\n}", &config), KD_ERR_PROTO));
    EXPECT_FAULT("config.json:2:");
    cr_expect(eq(int, read_text("[]", &config), KD_ERR_PROTO));
    EXPECT_FAULT("config.json: expected a JSON object");
    cr_expect(eq(int, read_text("", &config), KD_ERR_PROTO));
    cr_expect(eq(int, kd_hf_config_read("none.json", &config), KD_ERR_NOT_FOUND));
}

/* A path that stays wrong is the job's fault, not the host's. */
Test(hf_config, a_folder_that_is_none_is_told_from_a_disk_that_fails)
{
    kd_model_config config;
    temporary_write("file", "x");
    cr_assert(symlink("loop", "loop") == 0);
    cr_expect(eq(int, kd_hf_config_read_cached("none", &config), KD_ERR_NOT_FOUND));
    cr_expect(eq(int, kd_hf_config_read_cached("file", &config), KD_ERR_INVALID));
    EXPECT_FAULT("file/config.json: Not a directory");
    cr_expect(eq(int, kd_hf_config_read_cached("loop", &config), KD_ERR_INVALID));
    EXPECT_FAULT("loop/config.json: ");
}
