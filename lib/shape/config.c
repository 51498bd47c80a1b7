/*
 * config.c - what a shape must be to be run, and to be loaded by others. Sizes are held against
 * bounds first, so that the rules between them multiply without overflow.
 */
#include "shape/config.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include "base/log.h"
#include "message/fields.h"

#define MAX_POSITION (INT64_C(1) << 31)

typedef struct judge {
    const kd_model_config *config;
    kd_model_tell *tell;
    void *context;
    int n_faults;
} judge;

__attribute__((format(printf, 3, 4))) static void
find_fault(judge *j, const char *field, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    j->n_faults++;
    j->tell(j->context, field, text);
}

void kd_model_config_apply_type(kd_model_config *config)
{
    config->norm_topk = config->type->norm_topk;
    config->qkv_bias = config->type->qkv_bias;
    config->qk_norm = config->type->qk_norm;
}

int64_t kd_model_config_sparse_layers(const kd_model_config *config)
{
    return config->n_experts > 0 ? config->n_layers : 0;
}

/* What job.proto allows of a field of Model holds for every model, also one from config.json. */
static int64_t most(const char *field)
{
    const kd_field_facts *facts = kd_field_facts_named("kd.Model", field);
    KD_CHECK(facts != NULL && facts->has_range);
    return (int64_t)facts->range.most;
}

static void judge_size(judge *j, const char *field, int64_t value, int64_t min, int64_t max)
{
    if (value < min || value > max) {
        find_fault(j, field, "found %lld, expected %lld to %lld", (long long)value, (long long)min,
                   (long long)max);
    }
}

static void judge_sizes(judge *j)
{
    const kd_model_config *c = j->config;

    const struct {
        const char *field;
        int64_t value, min;
    } sizes[] = {
        {"vocab_size", c->vocab_size, 2}, {"hidden_size", c->hidden_size, 1},
        {"num_layers", c->n_layers, 1},   {"num_heads", c->n_heads, 1},
        {"head_dim", c->head_dim, 2},     {"intermediate_size", c->intermediate_size, 1},
        {"num_experts", c->n_experts, 0}, {"shared_expert_size", c->shared_expert_size, 0},
    };

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        judge_size(j, sizes[i].field, sizes[i].value, sizes[i].min, most(sizes[i].field));
    }
    judge_size(j, "num_kv_heads", c->n_kv_heads, 1, c->n_heads);
    judge_size(j, "experts_per_token", c->experts_per_token, c->n_experts > 0, c->n_experts);
    judge_size(j, "sliding_window", c->window, 0,
               c->type->window == KD_WINDOW_NEVER ? 0 : MAX_POSITION);
    judge_size(j, "max_positions", c->max_positions, 0, MAX_POSITION);
}

static void judge_heads(judge *j)
{
    const kd_model_config *c = j->config;
    const int64_t heads_width = c->n_heads * c->head_dim;

    if (c->n_heads % c->n_kv_heads != 0) {
        find_fault(j, "num_kv_heads", "found %lld, expected a divisor of num_heads (%lld)",
                   (long long)c->n_kv_heads, (long long)c->n_heads);
    }
    if (c->head_dim % 2 != 0) {
        find_fault(j, "head_dim",
                   "found %lld, expected an even number: rotary embedding turns pairs",
                   (long long)c->head_dim);
    }
    if (c->type->whole_heads && c->hidden_size % c->n_heads != 0) {
        find_fault(j, "num_heads",
                   "found %lld, expected a divisor of hidden_size (%lld) in type %s",
                   (long long)c->n_heads, (long long)c->hidden_size, c->type->name);
    }
    if (c->qk_norm == KD_QK_NORM_ROW && heads_width != c->hidden_size) {
        find_fault(
            j, "num_heads",
            "found %lld of head_dim %lld, %lld together, expected hidden_size (%lld) in type %s",
            (long long)c->n_heads, (long long)c->head_dim, (long long)heads_width,
            (long long)c->hidden_size, c->type->name);
    }
}

static void judge_experts(judge *j)
{
    const kd_model_config *c = j->config;

    if ((c->n_experts > 0) != c->type->has_experts) {
        find_fault(j, "num_experts", "found %lld, expected %s in type %s", (long long)c->n_experts,
                   c->type->has_experts ? "at least 1" : "0", c->type->name);
    }
    if ((c->shared_expert_size > 0) != c->type->has_shared_expert) {
        find_fault(j, "shared_expert_size", "found %lld, expected %s in type %s",
                   (long long)c->shared_expert_size,
                   c->type->has_shared_expert ? "at least 1" : "0", c->type->name);
    }
}

/* What nothing but a mistake of ours, or a key of config.json, sets. */
static void judge_switches(judge *j)
{
    const kd_model_config *c = j->config;
    const kd_model_type *t = c->type;

    const struct {
        const char *field;
        bool found, expected, is_free;
    } switches[] = {
        {"norm_topk", c->norm_topk, t->norm_topk, t->key_norm_topk != NULL},
        {"qkv_bias", c->qkv_bias, t->qkv_bias, t->key_qkv_bias != NULL},
    };

    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++) {
        if (switches[i].found != switches[i].expected && !switches[i].is_free) {
            find_fault(j, switches[i].field, "found %s, expected %s in type %s",
                       switches[i].found ? "true" : "false",
                       switches[i].expected ? "true" : "false", t->name);
        }
    }
    if (c->qk_norm != t->qk_norm) {
        find_fault(j, "qk_norm", "found %d, expected %d in type %s", (int)c->qk_norm,
                   (int)t->qk_norm, t->name);
    }
}

static void judge_real(judge *j, const char *field, double value)
{
    if (!(value > 0.0 && isfinite(value))) {
        find_fault(j, field, "found %g, expected a number above 0", value);
    }
}

int kd_model_config_judge(const kd_model_config *config, kd_model_tell *tell, void *context)
{
    judge j = {.config = config, .tell = tell, .context = context};
    judge_sizes(&j);
    if (j.n_faults == 0) {
        judge_heads(&j);
    }
    judge_experts(&j);
    judge_switches(&j);
    judge_real(&j, "rope_theta", config->rope_theta);
    judge_real(&j, "norm_eps", (double)config->norm_eps);
    return j.n_faults;
}

typedef struct first_fault {
    char text[320];
} first_fault;

static void keep_first(void *context, const char *field, const char *text)
{
    first_fault *first = context;
    if (first->text[0] == '\0') {
        (void)snprintf(first->text, sizeof first->text, "%s: %s", field, text);
    }
}

kd_status kd_model_config_check(const kd_model_config *config)
{
    first_fault first = {{0}};
    if (kd_model_config_judge(config, keep_first, &first) > 0) {
        return kd_fail(KD_ERR_INVALID, "model.%s", first.text);
    }
    return KD_OK;
}
