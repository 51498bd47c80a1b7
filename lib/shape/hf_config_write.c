/*
 * hf_config_write.c - writes config.json: first what the model's source said, then over it what the
 * shape says, so that fields of which we know nothing survive.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shape/hf_config.h"
#include "shape/json_file.h"

/* What the fields below say in another way: a source's must not contradict them. */
static const char *const restated[] = {
    "dtype", "rope_scaling", "layer_types", "num_experts", "num_local_experts",
};

/* The shortest decimal that reads back as the same float: 1e-06, not 9.99999997e-07. */
static double shortest(float value)
{
    char text[32];
    for (int digits = 6; digits < 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) {
            return strtod(text, NULL);
        }
    }
    return (double)value;
}

/* The object as it grows; `failed` once a value found no memory. */
typedef struct builder {
    json_t *root;
    bool failed;
} builder;

static void set(builder *b, const char *name, json_t *value)
{
    b->failed |= json_object_set_new(b->root, name, value) != 0;
}

/* Unless the source has it. */
static void set_default(builder *b, const char *name, json_t *value)
{
    if (json_object_get(b->root, name) != NULL) {
        json_decref(value);
    } else {
        set(b, name, value);
    }
}

static void describe_mlp(builder *b, const kd_model_config *c)
{
    const kd_model_type *t = c->type;

    set(b, t->key_intermediate_size, json_integer(c->intermediate_size));
    /* Where that is another key, this one is the width of dense layers, of which there are none. */
    set_default(b, "intermediate_size", json_integer(c->intermediate_size));
    if (t->has_experts) {
        set(b, t->key_num_experts, json_integer(c->n_experts));
        set(b, "num_experts_per_tok", json_integer(c->experts_per_token));
        set_default(b, "output_router_logits", json_false());
    }
    if (t->has_shared_expert) {
        set(b, t->key_shared_expert_size, json_integer(c->shared_expert_size));
    }
    if (t->key_norm_topk != NULL) {
        set(b, t->key_norm_topk, json_boolean(c->norm_topk));
    }
}

/* A number that nothing asks for is the source's to keep. */
static void describe_window(builder *b, const kd_model_config *c)
{
    const bool is_switched = c->type->window == KD_WINDOW_SWITCHED;

    if (is_switched) {
        set(b, "use_sliding_window", json_boolean(c->window > 0));
    }
    if (c->window > 0) {
        set(b, "sliding_window", json_integer(c->window));
    } else if (c->type->window == KD_WINDOW_GIVEN) {
        set(b, "sliding_window", json_null());
    }
}

static void describe_attention(builder *b, const kd_model_config *c)
{
    set(b, "num_attention_heads", json_integer(c->n_heads));
    set(b, "num_key_value_heads", json_integer(c->n_kv_heads));
    set(b, "head_dim", json_integer(c->head_dim));
    /* Both forms, so that versions before and after the change find theirs. */
    set(b, "rope_theta", json_real(c->rope_theta));
    set(b, "rope_parameters",
        json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", c->rope_theta));
    describe_window(b, c);
    if (c->type->key_qkv_bias != NULL) {
        set(b, c->type->key_qkv_bias, json_boolean(c->qkv_bias));
    }
}

static void describe_tokens(builder *b, const kd_model_config *c)
{
    set(b, "vocab_size", json_integer(c->vocab_size));
    if (c->max_positions > 0) {
        set(b, "max_position_embeddings", json_integer(c->max_positions));
    }
    /* The defaults of some types lie outside a small vocabulary. */
    set_default(b, "bos_token_id", json_null());
    set_default(b, "eos_token_id", json_null());
    set_default(b, "pad_token_id", json_null());
}

static void describe(builder *b, const kd_model_config *c, const char *dtype)
{
    for (size_t i = 0; i < sizeof restated / sizeof *restated; i++) {
        (void)json_object_del(b->root, restated[i]); /* fails where there is none */
    }
    set(b, "model_type", json_string(c->type->name));
    set(b, "architectures", json_pack("[s]", c->type->architecture));
    set(b, "torch_dtype", json_string(dtype));
    set(b, "hidden_size", json_integer(c->hidden_size));
    set(b, "num_hidden_layers", json_integer(c->n_layers));
    set(b, "hidden_act", json_string("silu"));
    set(b, "rms_norm_eps", json_real(shortest(c->norm_eps)));
    set(b, "tie_word_embeddings", json_boolean(c->tied_embeddings));
    for (const kd_fixed_key *fixed = c->type->fixed; fixed->name != NULL; fixed++) {
        set(b, fixed->name, json_loads(fixed->value, JSON_DECODE_ANY, NULL));
    }
    describe_tokens(b, c);
    describe_attention(b, c);
    describe_mlp(b, c);
}

/* An object to begin with: the source's, or an empty one. */
static kd_status begin(const char *path, const char *source, builder *b)
{
    json_error_t error;
    b->root = source != NULL ? json_loads(source, 0, &error) : json_object();
    if (b->root == NULL && source == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to write %s", path);
    }
    if (!json_is_object(b->root)) {
        json_decref(b->root);
        return kd_fail(KD_ERR_PROTO, "%s: its source is no JSON object", path);
    }
    return KD_OK;
}

kd_status kd_hf_config_write(const char *path,
                             const kd_model_config *config,
                             const char *dtype,
                             const char *source)
{
    builder b = {0};
    kd_status st = kd_model_config_check(config);
    if (!st) {
        st = begin(path, source, &b);
    }
    if (st) {
        return st;
    }
    describe(&b, config, dtype);
    st = kd_json_file_write(path, b.failed ? NULL : b.root);
    json_decref(b.root);
    return st;
}
