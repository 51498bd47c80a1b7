#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "message/fields.h"
#include "shape/count.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_config.h"

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
    kd_model_config c = {.type = &kd_model_mixtral,
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
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        const kd_model_config c = tiny_config(kd_model_type_at(i));
        cr_expect_eq(kd_model_config_check(&c), KD_OK, "%s", c.type->name);
    }
}

Test(config, experts_are_in_all_layers_or_in_none)
{
    const kd_model_config sparse = tiny_config(&kd_model_qwen2_moe);
    const kd_model_config dense = tiny_config(&kd_model_llama);
    cr_expect_eq(kd_model_config_sparse_layers(&sparse), 2);
    cr_expect_eq(kd_model_config_sparse_layers(&dense), 0);
}

Test(config, type_names_are_found_again)
{
    for (size_t i = 0; i < kd_model_type_count(); i++) {
        const kd_model_type *type = NULL;
        cr_expect_eq(kd_model_type_find(kd_model_type_at(i)->name, "type", &type), KD_OK);
        cr_expect_eq(type, kd_model_type_at(i));
    }
}

Test(config, unknown_type_names_the_known_ones_and_the_nearest)
{
    const kd_model_type *type = &kd_model_olmoe;

    kd_fault_quiet(1);
    cr_expect_eq(kd_model_type_find("mixtrel", "model.type", &type), KD_ERR_INVALID);
    EXPECT_FAULT("model.type: found \"mixtrel\"");
    EXPECT_FAULT("llama, mixtral, qwen2_moe, qwen3_moe, olmoe");
    EXPECT_FAULT("did you mean \"mixtral\"?");
    cr_expect_eq(kd_model_type_find("gpt_neox_japanese", "model.type", &type), KD_ERR_INVALID);
    cr_expect_null(strstr(kd_fault_text(), "did you mean"));
    cr_expect_eq(type, &kd_model_olmoe, "output untouched");
}

Test(config, type_sets_its_traits)
{
    cr_expect(tiny_config(&kd_model_mixtral).norm_topk);
    cr_expect(tiny_config(&kd_model_qwen3_moe).norm_topk);
    cr_expect(!tiny_config(&kd_model_olmoe).norm_topk);
    cr_expect(tiny_config(&kd_model_qwen2_moe).qkv_bias);
    cr_expect_eq(tiny_config(&kd_model_llama).qk_norm, KD_QK_NORM_NONE);
    cr_expect_eq(tiny_config(&kd_model_qwen3_moe).qk_norm, KD_QK_NORM_HEAD);
    cr_expect_eq(tiny_config(&kd_model_olmoe).qk_norm, KD_QK_NORM_ROW);
}

Test(config, sizes_out_of_range_are_refused_by_name)
{
    const kd_model_config good = tiny_config(&kd_model_mixtral);

    const struct {
        size_t offset;
        int64_t value;
        const char *text;
    } bad[] = {
        {offsetof(kd_model_config, vocab_size), 1, "vocab_size: found 1, expected 2 to"},
        {offsetof(kd_model_config, hidden_size), 0, "hidden_size: found 0, expected 1 to"},
        {offsetof(kd_model_config, hidden_size), INT64_MAX,
         "hidden_size: found 9223372036854775807"},
        {offsetof(kd_model_config, n_layers), 0, "num_layers: found 0"},
        {offsetof(kd_model_config, n_heads), -1, "num_heads: found -1"},
        {offsetof(kd_model_config, n_kv_heads), 3, "num_kv_heads: found 3, expected 1 to 2"},
        {offsetof(kd_model_config, head_dim), 1, "head_dim: found 1, expected 2 to"},
        {offsetof(kd_model_config, head_dim), 5, "head_dim: found 5, expected an even number"},
        {offsetof(kd_model_config, intermediate_size), 0, "intermediate_size: found 0"},
        {offsetof(kd_model_config, n_experts), 0, "experts_per_token: found 2, expected 0 to 0"},
        {offsetof(kd_model_config, experts_per_token), 5,
         "experts_per_token: found 5, expected 1 to 4"},
        {offsetof(kd_model_config, experts_per_token), 0,
         "experts_per_token: found 0, expected 1 to 4"},
        {offsetof(kd_model_config, shared_expert_size), -2, "shared_expert_size: found -2"},
        {offsetof(kd_model_config, max_positions), -1, "max_positions: found -1"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        kd_model_config c = good;
        memcpy((char *)&c + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        expect_refused(c, bad[i].text);
    }
}

Test(config, key_heads_must_divide_heads)
{
    kd_model_config c = tiny_config(&kd_model_mixtral);
    c.n_heads = 6;
    c.n_kv_heads = 4;
    expect_refused(c, "num_kv_heads: found 4, expected a divisor of num_heads (6)");
}

Test(config, what_the_type_does_not_have_is_refused)
{
    kd_model_config c = tiny_config(&kd_model_mixtral);
    c.norm_topk = false;
    expect_refused(c, "norm_topk: found false, expected true in type mixtral");

    c = tiny_config(&kd_model_mixtral);
    c.shared_expert_size = 4;
    expect_refused(c, "shared_expert_size: found 4, expected 0 in type mixtral");

    c = tiny_config(&kd_model_mixtral);
    c.n_experts = c.experts_per_token = 0;
    expect_refused(c, "num_experts: found 0, expected at least 1 in type mixtral");

    c = tiny_config(&kd_model_llama);
    c.n_experts = c.experts_per_token = 2;
    expect_refused(c, "num_experts: found 2, expected 0 in type llama");

    c = tiny_config(&kd_model_llama);
    c.qkv_bias = true;
    expect_refused(c, "qkv_bias: found true, expected false in type llama");

    c = tiny_config(&kd_model_olmoe);
    c.qk_norm = KD_QK_NORM_HEAD;
    expect_refused(c, "qk_norm: found 1, expected 2 in type olmoe");

    c = tiny_config(&kd_model_olmoe);
    c.head_dim = 6;
    expect_refused(
        c, "num_heads: found 2 of head_dim 6, 12 together, expected hidden_size (8) in type olmoe");

    c = tiny_config(&kd_model_llama);
    c.n_heads = c.n_kv_heads = 2;
    expect_refused(c, "num_heads: found 2, expected a divisor of hidden_size (9) in type llama");
}

Test(config, a_type_with_a_shared_expert_needs_one)
{
    kd_model_config c = tiny_config(&kd_model_qwen2_moe);
    c.shared_expert_size = 0;
    expect_refused(c, "shared_expert_size: found 0, expected at least 1 in type qwen2_moe");
}

Test(config, real_numbers_must_be_finite_and_positive)
{
    kd_model_config c = tiny_config(&kd_model_mixtral);
    c.rope_theta = 0.0;
    expect_refused(c, "rope_theta: found 0");
    c.rope_theta = NAN;
    expect_refused(c, "rope_theta: found nan");
    c = tiny_config(&kd_model_mixtral);
    c.norm_eps = -1.0f;
    expect_refused(c, "norm_eps: found -1");
    c.norm_eps = INFINITY;
    expect_refused(c, "norm_eps: found inf");
}

/* The largest shape that passes: eight bytes for each parameter still fit 63 bits. */
Test(config, no_shape_that_passes_overflows_a_count)
{
    kd_model_config c = tiny_config(&kd_model_qwen2_moe);

    const struct {
        const char *field;
        int64_t *value;
    } sizes[] = {
        {"vocab_size", &c.vocab_size},
        {"hidden_size", &c.hidden_size},
        {"num_layers", &c.n_layers},
        {"num_heads", &c.n_heads},
        {"num_kv_heads", &c.n_kv_heads},
        {"head_dim", &c.head_dim},
        {"intermediate_size", &c.intermediate_size},
        {"num_experts", &c.n_experts},
        {"experts_per_token", &c.experts_per_token},
        {"shared_expert_size", &c.shared_expert_size},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *sizes[i].value = (int64_t)kd_field_facts_named("kd.Model", sizes[i].field)->range.most;
    }
    cr_assert_eq(kd_model_config_check(&c), KD_OK, "%s", kd_fault_text());
    cr_expect(c.n_experts <= KD_MODEL_EXPERTS_MAX);
    const double bound = 2.0 * (double)c.n_layers * (double)c.n_experts * 3.0 *
                         (double)c.hidden_size * (double)c.intermediate_size;
    cr_expect(8.0 * bound < 0x1p63);
    cr_expect(kd_model_config_parameters(&c) > 0);
    cr_expect((double)kd_model_config_parameters(&c) < bound);
    cr_expect(kd_model_config_forward_flops(&c) > 0.0);
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
