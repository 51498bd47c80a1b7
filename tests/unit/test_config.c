#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "shape/count.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_model.h"

static void expect_refused(kd_model_config config, const char *text)
{
    kd_fault_quiet(1);
    cr_expect_eq(kd_model_config_check(&config), KD_ERR_INVALID, "%s", text);
    kd_fault_quiet(0);
    EXPECT_FAULT(text);
}

/* The shape of the reference benchmark's teacher. */
static kd_model_config reference_teacher(void)
{
    kd_model_config c = {.type = KD_MODEL_MIXTRAL,
                         .vocab_size = 4096,
                         .hidden_size = 512,
                         .n_layers = 6,
                         .n_heads = 8,
                         .n_kv_heads = 4,
                         .head_dim = 64,
                         .intermediate_size = 1024,
                         .n_experts = 8,
                         .experts_per_token = 2,
                         .rope_theta = 10000.0,
                         .norm_eps = 1e-6f};
    kd_model_config_apply_type(&c);
    return c;
}

Test(config, every_type_has_a_valid_tiny_model)
{
    for (int type = 0; type < KD_MODEL_TYPE_COUNT; type++) {
        const kd_model_config c = tiny_config((kd_model_type)type);
        cr_expect_eq(kd_model_config_check(&c), KD_OK, "%s", kd_model_type_name(c.type));
    }
}

Test(config, type_names_are_parsed_back)
{
    for (int i = 0; i < KD_MODEL_TYPE_COUNT; i++) {
        kd_model_type type = KD_MODEL_TYPE_COUNT;
        cr_expect_eq(kd_model_type_parse(kd_model_type_name((kd_model_type)i), &type), KD_OK);
        cr_expect_eq((int)type, i);
    }
}

Test(config, unknown_type_names_the_known_ones_and_the_nearest)
{
    kd_model_type type = KD_MODEL_OLMOE;

    kd_fault_quiet(1);
    cr_expect_eq(kd_model_type_parse("mixtrel", &type), KD_ERR_INVALID);
    EXPECT_FAULT("\"mixtrel\"");
    EXPECT_FAULT("llama, mixtral, qwen2_moe, qwen3_moe, olmoe");
    EXPECT_FAULT("did you mean \"mixtral\"?");
    cr_expect_eq(kd_model_type_parse("gpt_neox_japanese", &type), KD_ERR_INVALID);
    cr_expect_null(strstr(kd_fault_text(), "did you mean"));
    cr_expect_eq(type, KD_MODEL_OLMOE, "output untouched");
}

Test(config, type_sets_its_traits)
{
    cr_expect(tiny_config(KD_MODEL_MIXTRAL).norm_topk);
    cr_expect(tiny_config(KD_MODEL_QWEN3_MOE).norm_topk);
    cr_expect(!tiny_config(KD_MODEL_OLMOE).norm_topk);
    cr_expect(tiny_config(KD_MODEL_QWEN2_MOE).qkv_bias);
    cr_expect_eq(tiny_config(KD_MODEL_LLAMA).qk_norm, KD_QK_NORM_NONE);
    cr_expect_eq(tiny_config(KD_MODEL_QWEN3_MOE).qk_norm, KD_QK_NORM_HEAD);
    cr_expect_eq(tiny_config(KD_MODEL_OLMOE).qk_norm, KD_QK_NORM_ROW);
}

Test(config, sizes_out_of_range_are_refused_by_name)
{
    const kd_model_config good = tiny_config(KD_MODEL_MIXTRAL);

    const struct {
        size_t offset;
        int64_t value;
        const char *text;
    } bad[] = {
        {offsetof(kd_model_config, vocab_size), 1, "vocab_size is 1, expected 2 to"},
        {offsetof(kd_model_config, hidden_size), 0, "hidden_size is 0, expected 1 to"},
        {offsetof(kd_model_config, hidden_size), INT64_MAX, "hidden_size is 9223372036854775807"},
        {offsetof(kd_model_config, n_layers), 0, "num_layers is 0"},
        {offsetof(kd_model_config, n_heads), -1, "num_heads is -1"},
        {offsetof(kd_model_config, n_kv_heads), 3, "num_kv_heads is 3, expected 1 to 2"},
        {offsetof(kd_model_config, head_dim), 1, "head_dim is 1, expected 2 to"},
        {offsetof(kd_model_config, head_dim), 5, "head_dim is 5, expected an even number"},
        {offsetof(kd_model_config, intermediate_size), 0, "intermediate_size is 0"},
        {offsetof(kd_model_config, n_experts), 0, "experts_per_token is 2, expected 0 to 0"},
        {offsetof(kd_model_config, experts_per_token), 5,
         "experts_per_token is 5, expected 1 to 4"},
        {offsetof(kd_model_config, experts_per_token), 0,
         "experts_per_token is 0, expected 1 to 4"},
        {offsetof(kd_model_config, shared_expert_size), -2, "shared_expert_size is -2"},
        {offsetof(kd_model_config, max_positions), -1, "max_positions is -1"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kd_model_config c = good;
        memcpy((char *)&c + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        expect_refused(c, bad[i].text);
    }
}

Test(config, key_heads_must_divide_heads)
{
    kd_model_config c = tiny_config(KD_MODEL_MIXTRAL);
    c.n_heads = 6;
    c.n_kv_heads = 4;
    expect_refused(c, "num_kv_heads is 4, expected a divisor of num_heads, 6");
}

Test(config, what_the_type_does_not_have_is_refused)
{
    kd_model_config c = tiny_config(KD_MODEL_MIXTRAL);
    c.norm_topk = false;
    expect_refused(c, "norm_topk is false, expected true in type mixtral");

    c = tiny_config(KD_MODEL_MIXTRAL);
    c.shared_expert_size = 4;
    expect_refused(c, "shared_expert_size is 4, expected 0 in type mixtral");

    c = tiny_config(KD_MODEL_MIXTRAL);
    c.n_experts = c.experts_per_token = 0;
    expect_refused(c, "num_experts is 0, expected at least 1 in type mixtral");

    c = tiny_config(KD_MODEL_LLAMA);
    c.n_experts = c.experts_per_token = 2;
    expect_refused(c, "num_experts is 2, expected 0 in type llama");

    c = tiny_config(KD_MODEL_LLAMA);
    c.qkv_bias = true;
    expect_refused(c, "qkv_bias is true, expected false in type llama");

    c = tiny_config(KD_MODEL_OLMOE);
    c.qk_norm = KD_QK_NORM_HEAD;
    expect_refused(c, "qk_norm is 1, expected 2 in type olmoe");

    c = tiny_config(KD_MODEL_OLMOE);
    c.head_dim = 6;
    expect_refused(c, "num_heads * head_dim is 12, expected hidden_size, 8, in type olmoe");

    c.type = KD_MODEL_TYPE_COUNT;
    expect_refused(c, "type is 5");
}

Test(config, real_numbers_must_be_finite_and_positive)
{
    kd_model_config c = tiny_config(KD_MODEL_MIXTRAL);
    c.rope_theta = 0.0;
    expect_refused(c, "rope_theta is 0");
    c.rope_theta = NAN;
    expect_refused(c, "rope_theta is nan");
    c = tiny_config(KD_MODEL_MIXTRAL);
    c.norm_eps = -1.0f;
    expect_refused(c, "norm_eps is -1");
    c.norm_eps = INFINITY;
    expect_refused(c, "norm_eps is inf");
}

Test(config, parameters_and_operations_of_the_reference_teacher)
{
    const kd_model_config c = reference_teacher();
    const int64_t width = 512, table = 4096 * width, expert = 3 * width * 1024;
    const int64_t qkv = width * 16 * 64, out = width * 8 * 64, router = 8 * width;
    const int64_t rest = qkv + out + router, norms = 2 * width;

    cr_expect_eq(kd_model_config_parameters(&c), 2 * table + 6 * (rest + norms + 8 * expert) + 512);
    cr_expect_eq(kd_model_config_active_parameters(&c),
                 2 * table + 6 * (rest + norms + 2 * expert) + 512);
    cr_expect_eq(kd_model_config_forward_flops(&c),
                 2.0 * (double)(table + 6 * (rest + 2 * expert)));
    cr_expect_float_eq(kd_model_config_forward_flops(&c) / 1e6, 51.4, 0.1);
}
