/*
 * hf_config.c - reads config.json. What a type calls things and which values it fixes stand in its
 * row; here is what they have in common.
 */
#include "shape/hf_config.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "shape/json_file.h"

/* Whatever the type: another value of these would change what the model computes. */
static const kd_fixed_key common_fixed[] = {
    {"hidden_act", "\"silu\""}, {"quantization_config", "null"},
    {"clip_qkv", "null"},       {"attention_bias", "false"},
    {"mlp_bias", "false"},      {"decoder_sparse_step", "1"},
    {"mlp_only_layers", "[]"},  {NULL, NULL},
};

/* Of types that have no such switch. */
static const kd_fixed_key no_window[] = {{"use_sliding_window", "false"}, {NULL, NULL}};

/* What transformers takes for sliding_window where a window is asked for and no number is there. */
enum { WINDOW_DEFAULT = 4096 };

/* Getters do nothing once `st` is set, so that a run of them needs one check at its end. */
typedef struct fields {
    const char *path;
    const json_t *root;
    const kd_model_type *type;
    kd_status st;
} fields;

/* NULL where the field is missing or null: transformers takes both for "not set". */
static const json_t *lookup(const fields *f, const json_t *object, const char *name)
{
    const json_t *value = f->st ? NULL : json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static void
fail_field(fields *f, kd_status st, const char *name, const json_t *found, const char *expected)
{
    kd_text text = {0};
    kd_json_printer p = {.text = &text};
    if (found != NULL) {
        kd_json_tree(&p, found, true);
    }
    f->st = found == NULL
                ? kd_fail(st, "%s: there is no \"%s\", expected %s", f->path, name, expected)
                : kd_fail(st, "%s: \"%s\" is %.100s, expected %s", f->path, name,
                          !text.failed ? text.data : "unreadable", expected);
    kd_text_release(&text);
}

/* A size: 1 or more. */
static int64_t get_size(fields *f, const char *name)
{
    const json_t *value = lookup(f, f->root, name);
    if (f->st) {
        return 0;
    }
    if (!json_is_integer(value)) {
        fail_field(f, KD_ERR_PROTO, name, value, "an integer");
    } else if (json_integer_value(value) < 1 || json_integer_value(value) > INT32_MAX) {
        fail_field(f, KD_ERR_INVALID, name, value, "an integer from 1 to 2147483647");
    }
    return json_integer_value(value);
}

static int64_t get_size_or(fields *f, const char *name, int64_t fallback)
{
    return lookup(f, f->root, name) == NULL ? fallback : get_size(f, name);
}

static bool get_bool_or(fields *f, const char *name, bool fallback)
{
    const json_t *value = lookup(f, f->root, name);
    if (value == NULL) {
        return fallback;
    }
    if (!json_is_boolean(value)) {
        fail_field(f, KD_ERR_PROTO, name, value, "true or false");
    }
    return json_is_true(value);
}

static double get_positive(fields *f, const json_t *object, const char *name)
{
    const json_t *value = lookup(f, object, name);
    if (f->st) {
        return 0.0;
    }
    if (!json_is_number(value)) {
        fail_field(f, KD_ERR_PROTO, name, value, "a number");
    } else if (!(json_number_value(value) > 0.0)) {
        fail_field(f, KD_ERR_INVALID, name, value, "a number above 0");
    }
    return json_number_value(value);
}

/* The field must be missing, null, or this word. */
static void expect_word(fields *f, const json_t *object, const char *name, const char *word)
{
    const json_t *value = lookup(f, object, name);
    if (value != NULL && (!json_is_string(value) || strcmp(json_string_value(value), word) != 0)) {
        char expected[64];
        (void)snprintf(expected, sizeof expected, "\"%s\": nothing else is supported", word);
        fail_field(f, KD_ERR_INVALID, name, value, expected);
    }
}

/* Missing, null, or the one value of each row. */
static void expect_fixed(fields *f, const kd_fixed_key *fixed)
{
    for (; fixed->name != NULL; fixed++) {
        const json_t *found = lookup(f, f->root, fixed->name);
        json_t *wanted = found != NULL ? json_loads(fixed->value, JSON_DECODE_ANY, NULL) : NULL;
        if (found != NULL && !json_equal(found, wanted)) {
            char expected[64];
            (void)snprintf(expected, sizeof expected, "%s: nothing else is supported",
                           fixed->value);
            fail_field(f, KD_ERR_INVALID, fixed->name, found, expected);
        }
        json_decref(wanted);
    }
}

/* Of all layers; null is none, although a switch may ask for one. */
static int64_t get_window(fields *f)
{
    const bool is_asked =
        f->type->window == KD_WINDOW_GIVEN ||
        (f->type->window == KD_WINDOW_SWITCHED && get_bool_or(f, "use_sliding_window", false));
    const int64_t otherwise = f->type->window == KD_WINDOW_SWITCHED ? WINDOW_DEFAULT : 0;

    if (f->type->window != KD_WINDOW_SWITCHED) {
        expect_fixed(f, no_window);
    }
    return !is_asked || json_is_null(json_object_get(f->root, "sliding_window"))
               ? 0
               : get_size_or(f, "sliding_window", otherwise);
}

/* Where layers are told apart, all have the window, or all attend to what came before. */
static void expect_uniform_layers(fields *f, bool has_window)
{
    const char *expected = has_window ? "sliding_attention" : "full_attention";
    char text[64];
    size_t i;
    const json_t *kind;

    const json_t *kinds = lookup(f, f->root, "layer_types");
    json_array_foreach((json_t *)kinds, i, kind) /* only read */
    {
        const char *word = json_string_value(kind);
        if (!f->st && (word == NULL || strcmp(word, expected) != 0)) {
            (void)snprintf(text, sizeof text, "\"%s\" for all layers", expected);
            fail_field(f, KD_ERR_INVALID, "layer_types", kind, text);
        }
    }
}

static const json_t *get_object(fields *f, const char *name)
{
    const json_t *value = lookup(f, f->root, name);
    if (value != NULL && !json_is_object(value)) {
        fail_field(f, KD_ERR_PROTO, name, value, "an object or null");
    }
    return value;
}

static double get_rope_theta(fields *f)
{
    const json_t *scaling = get_object(f, "rope_scaling");
    const json_t *parameters = get_object(f, "rope_parameters");

    /* "type" is what "rope_type" was called first. */
    expect_word(f, scaling, "rope_type", "default");
    expect_word(f, scaling, "type", "default");
    expect_word(f, parameters, "rope_type", "default");
    const json_t *holders[] = {parameters, scaling, f->root};
    for (size_t i = 0; i < sizeof holders / sizeof *holders; i++) {
        const json_t *share = lookup(f, holders[i], "partial_rotary_factor");
        if (share != NULL && json_number_value(share) != 1.0) {
            fail_field(f, KD_ERR_INVALID, "partial_rotary_factor", share,
                       "1: nothing else is supported");
        }
    }
    for (size_t i = 0; i < sizeof holders / sizeof *holders; i++) {
        if (lookup(f, holders[i], "rope_theta") != NULL) {
            return get_positive(f, holders[i], "rope_theta");
        }
    }
    return f->type->rope_theta;
}

static void read_attention(fields *f, kd_model_config *config)
{
    config->n_heads = get_size(f, "num_attention_heads");
    config->n_kv_heads = f->type->kv_heads_optional
                             ? get_size_or(f, "num_key_value_heads", config->n_heads)
                             : get_size(f, "num_key_value_heads");
    if (f->st) {
        return;
    }
    const json_t *head_dim = lookup(f, f->root, "head_dim");
    if (head_dim == NULL && config->hidden_size % config->n_heads != 0) {
        fail_field(f, KD_ERR_INVALID, "num_attention_heads",
                   lookup(f, f->root, "num_attention_heads"),
                   "a divisor of \"hidden_size\", as there is no \"head_dim\"");
        return;
    }
    config->head_dim = get_size_or(f, "head_dim", config->hidden_size / config->n_heads);
    config->rope_theta = get_rope_theta(f);
    if (f->type->key_qkv_bias != NULL) {
        config->qkv_bias = get_bool_or(f, f->type->key_qkv_bias, true);
    }
}

static void read_mlp(fields *f, kd_model_config *config)
{
    const kd_model_type *t = f->type;

    config->intermediate_size = get_size(f, t->key_intermediate_size);
    if (t->key_num_experts != NULL) {
        /* transformers maps the two names onto one another. */
        const bool local = lookup(f, f->root, "num_local_experts") != NULL;
        config->n_experts = get_size(f, local ? "num_local_experts" : t->key_num_experts);
        config->experts_per_token = get_size(f, "num_experts_per_tok");
    }
    if (t->key_shared_expert_size != NULL) {
        config->shared_expert_size = get_size(f, t->key_shared_expert_size);
    }
    if (t->key_norm_topk != NULL) {
        config->norm_topk = get_bool_or(f, t->key_norm_topk, false);
    }
}

/* The message of a check below knows the field; this adds the file. */
static kd_status fail_in_file(const char *path, kd_status st)
{
    char *text = strdup(kd_fault_text());
    st = kd_fail(st, "%s: %s", path, text != NULL ? text : kd_status_name(st));
    free(text);
    return st;
}

static kd_status read_type(fields *f)
{
    const json_t *value = lookup(f, f->root, "model_type");
    if (!json_is_string(value)) {
        fail_field(f, KD_ERR_PROTO, "model_type", value, "a string");
        return f->st;
    }
    char field[512];
    (void)snprintf(field, sizeof field, "%s: \"model_type\"", f->path);
    return kd_model_type_find(json_string_value(value), field, &f->type);
}

static kd_status read_fields(fields *f, kd_model_config *config_out)
{
    kd_status st = read_type(f);
    if (st) {
        return st;
    }
    kd_model_config config = {.type = f->type};
    kd_model_config_apply_type(&config);
    expect_fixed(f, common_fixed);
    expect_fixed(f, f->type->fixed);
    config.window = get_window(f);
    expect_uniform_layers(f, config.window > 0);
    config.vocab_size = get_size(f, "vocab_size");
    config.hidden_size = get_size(f, "hidden_size");
    config.n_layers = get_size(f, "num_hidden_layers");
    config.norm_eps = (float)get_positive(f, f->root, "rms_norm_eps");
    config.max_positions = get_size_or(f, "max_position_embeddings", 0);
    config.tied_embeddings = get_bool_or(f, "tie_word_embeddings", false);
    read_attention(f, &config);
    read_mlp(f, &config);
    if (f->st) {
        return f->st;
    }
    st = kd_model_config_check(&config);
    if (st) {
        return fail_in_file(f->path, st);
    }
    *config_out = config;
    return KD_OK;
}

kd_status kd_hf_config_read(const char *path, kd_model_config *config_out)
{
    json_t *root;
    kd_status st = kd_json_file_read(path, KD_HF_CONFIG_BYTES_MAX, &root);
    if (st) {
        return st;
    }
    if (json_is_object(root)) {
        fields f = {.path = path, .root = root};
        st = read_fields(&f, config_out);
    } else {
        st = kd_fail(KD_ERR_PROTO, "%s: expected a JSON object", path);
    }
    json_decref(root);
    return st;
}
