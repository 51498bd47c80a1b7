#include "shape/config.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "base/text.h"

/* Bounds so wide that no real model meets them and so narrow that no count of bytes overflows. */
#define MAX_VOCAB    (INT64_C(1) << 24)
#define MAX_WIDTH    (INT64_C(1) << 18)
#define MAX_COUNT    (INT64_C(1) << 10) /* layers, heads */
#define MAX_POSITION (INT64_C(1) << 31)

/* What the Hugging Face type fixes: its code has no switch for these, or one that we do not cover. */
typedef struct type_traits {
    const char *name;
    bool moe;
    bool norm_topk; /* what its published models use             */
    bool free_topk; /* the type has a switch for it              */
    bool qkv_bias;
    bool shared_expert; /* may have one                          */
    kd_qk_norm qk_norm;
} type_traits;

static const type_traits traits[] = {
    [KD_MODEL_LLAMA] = {.name = "llama"},
    [KD_MODEL_MIXTRAL] = {.name = "mixtral", .moe = true, .norm_topk = true},
    [KD_MODEL_QWEN2_MOE] = {.name = "qwen2_moe",
                            .moe = true,
                            .free_topk = true,
                            .qkv_bias = true,
                            .shared_expert = true},
    [KD_MODEL_QWEN3_MOE] = {.name = "qwen3_moe",
                            .moe = true,
                            .norm_topk = true,
                            .free_topk = true,
                            .qk_norm = KD_QK_NORM_HEAD},
    [KD_MODEL_OLMOE] = {.name = "olmoe", .moe = true, .free_topk = true, .qk_norm = KD_QK_NORM_ROW},
};
_Static_assert(sizeof traits / sizeof *traits == KD_MODEL_TYPE_COUNT, "describe every type");

const char *kd_model_type_name(kd_model_type type)
{
    KD_CHECK(type < KD_MODEL_TYPE_COUNT);
    return traits[type].name;
}

static kd_status unknown_type(const char *name)
{
    const char *names[KD_MODEL_TYPE_COUNT];
    kd_text known = {0}, hint = {0};

    for (int i = 0; i < KD_MODEL_TYPE_COUNT; i++) {
        names[i] = traits[i].name;
        kd_text_printf(&known, "%s%s", i > 0 ? ", " : "", names[i]);
    }
    const char *nearest = kd_text_nearest(name, names, KD_MODEL_TYPE_COUNT);
    if (nearest != NULL) {
        kd_text_printf(&hint, "; did you mean \"%s\"?", nearest);
    }
    const kd_status st = kd_fail(KD_ERR_INVALID, "model type is \"%s\", expected one of %s%s", name,
                                 known.data != NULL ? known.data : "the supported ones",
                                 hint.data != NULL ? hint.data : "");
    kd_text_release(&known);
    kd_text_release(&hint);
    return st;
}

kd_status kd_model_type_parse(const char *name, kd_model_type *type_out)
{
    for (int i = 0; i < KD_MODEL_TYPE_COUNT; i++) {
        if (strcmp(name, traits[i].name) == 0) {
            *type_out = (kd_model_type)i;
            return KD_OK;
        }
    }
    return unknown_type(name);
}

void kd_model_config_apply_type(kd_model_config *config)
{
    KD_CHECK(config->type < KD_MODEL_TYPE_COUNT);
    const type_traits *t = &traits[config->type];
    config->norm_topk = t->norm_topk;
    config->qkv_bias = t->qkv_bias;
    config->qk_norm = t->qk_norm;
}

static kd_status check_range(const char *field, int64_t value, int64_t min, int64_t max)
{
    if (value < min || value > max) {
        return kd_fail(KD_ERR_INVALID, "model: %s is %lld, expected %lld to %lld", field,
                       (long long)value, (long long)min, (long long)max);
    }
    return KD_OK;
}

static kd_status check_sizes(const kd_model_config *c)
{
    const struct {
        const char *field;
        int64_t value, min, max;
    } sizes[] = {
        {"vocab_size", c->vocab_size, 2, MAX_VOCAB},
        {"hidden_size", c->hidden_size, 1, MAX_WIDTH},
        {"num_layers", c->n_layers, 1, MAX_COUNT},
        {"num_heads", c->n_heads, 1, MAX_COUNT},
        {"num_kv_heads", c->n_kv_heads, 1, c->n_heads},
        {"head_dim", c->head_dim, 2, MAX_COUNT},
        {"intermediate_size", c->intermediate_size, 1, MAX_WIDTH},
        {"num_experts", c->n_experts, 0, KD_MODEL_EXPERTS_MAX},
        {"experts_per_token", c->experts_per_token, c->n_experts > 0, c->n_experts},
        {"shared_expert_size", c->shared_expert_size, 0, MAX_WIDTH},
        {"max_positions", c->max_positions, 0, MAX_POSITION},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const kd_status st =
            check_range(sizes[i].field, sizes[i].value, sizes[i].min, sizes[i].max);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status check_heads(const kd_model_config *c)
{
    if (c->n_heads % c->n_kv_heads != 0) {
        return kd_fail(KD_ERR_INVALID,
                       "model: num_kv_heads is %lld, expected a divisor of num_heads, %lld",
                       (long long)c->n_kv_heads, (long long)c->n_heads);
    }
    if (c->head_dim % 2 != 0) {
        return kd_fail(KD_ERR_INVALID,
                       "model: head_dim is %lld, expected an even number (rotary embedding)",
                       (long long)c->head_dim);
    }
    const int64_t heads_width = c->n_heads * c->head_dim;
    if (c->qk_norm == KD_QK_NORM_ROW && heads_width != c->hidden_size) {
        return kd_fail(
            KD_ERR_INVALID,
            "model: num_heads * head_dim is %lld, expected hidden_size, %lld, in type %s",
            (long long)heads_width, (long long)c->hidden_size, kd_model_type_name(c->type));
    }
    return KD_OK;
}

static kd_status check_traits(const kd_model_config *c)
{
    const type_traits *t = &traits[c->type];

    if ((c->n_experts > 0) != t->moe) {
        return kd_fail(KD_ERR_INVALID, "model: num_experts is %lld, expected %s in type %s",
                       (long long)c->n_experts, t->moe ? "at least 1" : "0", t->name);
    }
    if (c->shared_expert_size > 0 && !t->shared_expert) {
        return kd_fail(KD_ERR_INVALID, "model: shared_expert_size is %lld, expected 0 in type %s",
                       (long long)c->shared_expert_size, t->name);
    }
    if (c->norm_topk != t->norm_topk && !t->free_topk) {
        return kd_fail(KD_ERR_INVALID, "model: norm_topk is %s, expected %s in type %s",
                       c->norm_topk ? "true" : "false", t->norm_topk ? "true" : "false", t->name);
    }
    if (c->qkv_bias && !t->qkv_bias) {
        return kd_fail(KD_ERR_INVALID, "model: qkv_bias is true, expected false in type %s",
                       t->name);
    }
    if (c->qk_norm != t->qk_norm) {
        return kd_fail(KD_ERR_INVALID, "model: qk_norm is %d, expected %d in type %s",
                       (int)c->qk_norm, (int)t->qk_norm, t->name);
    }
    return KD_OK;
}

kd_status kd_model_config_check(const kd_model_config *config)
{
    if ((unsigned)config->type >= KD_MODEL_TYPE_COUNT) {
        return kd_fail(KD_ERR_INVALID, "model: type is %d, expected one of %d known types",
                       (int)config->type, KD_MODEL_TYPE_COUNT);
    }
    kd_status st = check_sizes(config);
    if (!st) {
        st = check_traits(config);
    }
    if (!st) {
        st = check_heads(config);
    }
    if (!st && !(config->rope_theta > 0.0 && isfinite(config->rope_theta))) {
        st = kd_fail(KD_ERR_INVALID, "model: rope_theta is %g, expected a number above 0",
                     config->rope_theta);
    }
    if (!st && !(config->norm_eps > 0.0f && isfinite(config->norm_eps))) {
        st = kd_fail(KD_ERR_INVALID, "model: norm_eps is %g, expected a number above 0",
                     (double)config->norm_eps);
    }
    return st;
}
