/*
 * hf_names.c - our fused matrices are runs of Hugging Face's: a walk over our table names each run, and
 * never moves a value. The order by offset lets a reader and a writer go through memory once.
 */
#include "format/hf_names.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* The list as it grows; `cursor` is where the next tensor begins. */
typedef struct listing {
    const kd_model_config *config;
    kd_hf_tensor *tensors;
    size_t n;
    int64_t cursor;
} listing;

static kd_hf_tensor *append(listing *list, int64_t rows, int64_t columns)
{
    kd_hf_tensor *tensor = &list->tensors[list->n++];
    *tensor = (kd_hf_tensor){
        .dims = {rows, columns}, .offset = list->cursor, .n_elements = rows * columns};
    list->cursor += tensor->n_elements;
    return tensor;
}

__attribute__((format(printf, 2, 3))) static void
set_name(kd_hf_tensor *tensor, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(tensor->name, sizeof tensor->name, format, args);
    va_end(args);
    KD_CHECK(n > 0 && (size_t)n < sizeof tensor->name);
}

static void
add_matrix(listing *list, int64_t rows, int64_t columns, int64_t layer, const char *tail)
{
    kd_hf_tensor *tensor = append(list, rows, columns);
    tensor->n_dims = 2;
    set_name(tensor, "model.layers.%lld.%s.weight", (long long)layer, tail);
}

static void add_vector(listing *list, int64_t n, int64_t layer, const char *tail)
{
    kd_hf_tensor *tensor = append(list, n, 1);
    tensor->n_dims = 1;
    set_name(tensor, "model.layers.%lld.%s", (long long)layer, tail);
}

/* Outside the layers. */
static void add_whole(listing *list, const kd_parameter *entry, const char *name)
{
    kd_hf_tensor *tensor = append(list, entry->dims[0], entry->n_dims > 1 ? entry->dims[1] : 1);
    tensor->n_dims = entry->n_dims > 1 ? 2 : 1;
    set_name(tensor, "%s", name);
}

/* A matrix of the MLP, whose name has the expert's number in place of its '*', if it has one. */
static void add_mlp(listing *list,
                    int64_t rows,
                    int64_t columns,
                    int64_t layer,
                    int64_t expert,
                    const char *pattern)
{
    kd_hf_tensor *tensor = append(list, rows, columns);
    const char *star = strchr(pattern, '*');
    tensor->n_dims = 2;
    if (star == NULL) {
        set_name(tensor, "model.layers.%lld.%s", (long long)layer, pattern);
    } else {
        set_name(tensor, "model.layers.%lld.%.*s%lld%s", (long long)layer, (int)(star - pattern),
                 pattern, (long long)expert, star + 1);
    }
}

static void add_qkv(listing *list, int64_t layer)
{
    const kd_model_config *c = list->config;
    add_matrix(list, c->n_heads * c->head_dim, c->hidden_size, layer, "self_attn.q_proj");
    add_matrix(list, c->n_kv_heads * c->head_dim, c->hidden_size, layer, "self_attn.k_proj");
    add_matrix(list, c->n_kv_heads * c->head_dim, c->hidden_size, layer, "self_attn.v_proj");
}

static void add_qkv_bias(listing *list, int64_t layer)
{
    const kd_model_config *c = list->config;
    add_vector(list, c->n_heads * c->head_dim, layer, "self_attn.q_proj.bias");
    add_vector(list, c->n_kv_heads * c->head_dim, layer, "self_attn.k_proj.bias");
    add_vector(list, c->n_kv_heads * c->head_dim, layer, "self_attn.v_proj.bias");
}

/* Each expert's rows of gate stand above those of up. */
static void add_gate_up(listing *list, const kd_parameter *entry)
{
    const kd_mlp_names *names = &list->config->type->mlp;
    const int64_t rows = entry->dims[1] / 2, columns = entry->dims[2];
    for (int64_t expert = 0; expert < entry->dims[0]; expert++) {
        add_mlp(list, rows, columns, entry->layer, expert, names->gate);
        add_mlp(list, rows, columns, entry->layer, expert, names->up);
    }
}

static void add_down(listing *list, const kd_parameter *entry)
{
    for (int64_t expert = 0; expert < entry->dims[0]; expert++) {
        add_mlp(list, entry->dims[1], entry->dims[2], entry->layer, expert,
                list->config->type->mlp.down);
    }
}

static void add_shared_gate_up(listing *list, const kd_parameter *entry)
{
    const kd_mlp_names *names = &list->config->type->mlp;
    const int64_t rows = entry->dims[0] / 2, columns = entry->dims[1];
    add_mlp(list, rows, columns, entry->layer, 0, names->shared_gate);
    add_mlp(list, rows, columns, entry->layer, 0, names->shared_up);
}

static void add_entry(listing *list, const kd_parameter *entry)
{
    const kd_mlp_names *mlp = &list->config->type->mlp;
    const int64_t layer = entry->layer, rows = entry->dims[0], columns = entry->dims[1];

    list->cursor = entry->offset;
    switch (entry->role) {
    case KD_PARAM_EMBEDDING:
        add_whole(list, entry, "model.embed_tokens.weight");
        break;
    case KD_PARAM_ATTENTION_NORM:
        add_vector(list, rows, layer, "input_layernorm.weight");
        break;
    case KD_PARAM_QKV:
        add_qkv(list, layer);
        break;
    case KD_PARAM_QKV_BIAS:
        add_qkv_bias(list, layer);
        break;
    case KD_PARAM_Q_NORM:
        add_vector(list, rows, layer, "self_attn.q_norm.weight");
        break;
    case KD_PARAM_K_NORM:
        add_vector(list, rows, layer, "self_attn.k_norm.weight");
        break;
    case KD_PARAM_ATTENTION_OUT:
        add_matrix(list, rows, columns, layer, "self_attn.o_proj");
        break;
    case KD_PARAM_MLP_NORM:
        add_vector(list, rows, layer, "post_attention_layernorm.weight");
        break;
    case KD_PARAM_ROUTER:
        add_mlp(list, rows, columns, layer, 0, mlp->router);
        break;
    case KD_PARAM_GATE_UP:
        add_gate_up(list, entry);
        break;
    case KD_PARAM_DOWN:
        add_down(list, entry);
        break;
    case KD_PARAM_SHARED_GATE_UP:
        add_shared_gate_up(list, entry);
        break;
    case KD_PARAM_SHARED_DOWN:
        add_mlp(list, rows, columns, layer, 0, mlp->shared_down);
        break;
    case KD_PARAM_SHARED_GATE:
        add_mlp(list, rows, columns, layer, 0, mlp->shared_router);
        break;
    case KD_PARAM_FINAL_NORM:
        add_whole(list, entry, "model.norm.weight");
        break;
    case KD_PARAM_LM_HEAD:
        add_whole(list, entry, "lm_head.weight");
        break;
    case KD_PARAM_ROLE_COUNT:
        KD_CHECK(entry->role != KD_PARAM_ROLE_COUNT);
        break;
    }
    KD_CHECK(list->cursor == entry->offset + entry->n_elements);
}

static int compare_offsets(const void *left, const void *right)
{
    const kd_hf_tensor *a = left, *b = right;
    return (a->offset > b->offset) - (a->offset < b->offset);
}

kd_status
kd_hf_tensors_list(const kd_parameters *params, kd_hf_tensor **tensors_out, size_t *n_tensors_out)
{
    /* No entry becomes more than three tensors, or two per expert. */
    const size_t experts = (size_t)params->config.n_experts;
    const size_t capacity = (size_t)params->n_table * (3 + 2 * experts);
    listing list = {
        .config = &params->config,
        .tensors = malloc(capacity * sizeof *list.tensors),
    };
    if (list.tensors == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the names of %d parameters", params->n_table);
    }
    for (int i = 0; i < params->n_table; i++) {
        add_entry(&list, &params->table[i]);
    }
    KD_CHECK(list.n <= capacity);
    qsort(list.tensors, list.n, sizeof *list.tensors, compare_offsets);

    *tensors_out = list.tensors;
    *n_tensors_out = list.n;
    return KD_OK;
}
