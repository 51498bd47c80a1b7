/*
 * roles.c - which parameters a decoder of a given shape has: one for each role and layer. The list is made
 * once, and names, slabs, files and start values all follow from it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "model/parameters.h"

static const char *const role_names[] = {
    [KD_PARAM_EMBEDDING] = "embedding",
    [KD_PARAM_ATTENTION_NORM] = "attention_norm",
    [KD_PARAM_QKV] = "qkv",
    [KD_PARAM_QKV_BIAS] = "qkv_bias",
    [KD_PARAM_Q_NORM] = "q_norm",
    [KD_PARAM_K_NORM] = "k_norm",
    [KD_PARAM_ATTENTION_OUT] = "attention_out",
    [KD_PARAM_MLP_NORM] = "mlp_norm",
    [KD_PARAM_ROUTER] = "router",
    [KD_PARAM_GATE_UP] = "gate_up",
    [KD_PARAM_DOWN] = "down",
    [KD_PARAM_SHARED_GATE_UP] = "shared_gate_up",
    [KD_PARAM_SHARED_DOWN] = "shared_down",
    [KD_PARAM_SHARED_GATE] = "shared_gate",
    [KD_PARAM_FINAL_NORM] = "final_norm",
    [KD_PARAM_LM_HEAD] = "lm_head",
};
_Static_assert(sizeof role_names / sizeof *role_names == KD_PARAM_ROLE_COUNT, "name every role");

const char *kd_parameter_role_name(kd_parameter_role role)
{
    KD_CHECK(role < KD_PARAM_ROLE_COUNT);
    return role_names[role];
}

static int shape(int64_t *dims, int n_dims, int64_t d0, int64_t d1, int64_t d2)
{
    dims[0] = d0;
    dims[1] = d1;
    dims[2] = d2;
    return n_dims;
}

/* The dims of a role's entries; returns how many, 0 if this shape of model has no such entry. */
static int role_shape(const kd_model_config *c, kd_parameter_role role, int64_t *dims)
{
    const int64_t width = c->hidden_size, inner = c->intermediate_size;
    const int64_t shared = c->shared_expert_size;
    const int64_t q = c->n_heads * c->head_dim, k = c->n_kv_heads * c->head_dim;
    const int64_t n_mlps = c->n_experts > 0 ? c->n_experts : 1;
    const bool whole_row = c->qk_norm == KD_QK_NORM_ROW;
    const int qk_dims = c->qk_norm != KD_QK_NORM_NONE ? 1 : 0, shared_dims = shared > 0 ? 2 : 0;

    switch (role) {
    case KD_PARAM_EMBEDDING:
        return shape(dims, 2, c->vocab_size, width, 1);
    case KD_PARAM_LM_HEAD:
        return shape(dims, c->tied_embeddings ? 0 : 2, c->vocab_size, width, 1);
    case KD_PARAM_ATTENTION_NORM:
    case KD_PARAM_MLP_NORM:
    case KD_PARAM_FINAL_NORM:
        return shape(dims, 1, width, 1, 1);
    case KD_PARAM_QKV:
        return shape(dims, 2, q + 2 * k, width, 1);
    case KD_PARAM_QKV_BIAS:
        return shape(dims, c->qkv_bias ? 1 : 0, q + 2 * k, 1, 1);
    case KD_PARAM_Q_NORM:
        return shape(dims, qk_dims, whole_row ? q : c->head_dim, 1, 1);
    case KD_PARAM_K_NORM:
        return shape(dims, qk_dims, whole_row ? k : c->head_dim, 1, 1);
    case KD_PARAM_ATTENTION_OUT:
        return shape(dims, 2, width, q, 1);
    case KD_PARAM_ROUTER:
        return shape(dims, c->n_experts > 0 ? 2 : 0, c->n_experts, width, 1);
    case KD_PARAM_GATE_UP:
        return shape(dims, 3, n_mlps, 2 * inner, width);
    case KD_PARAM_DOWN:
        return shape(dims, 3, n_mlps, width, inner);
    case KD_PARAM_SHARED_GATE_UP:
        return shape(dims, shared_dims, 2 * shared, width, 1);
    case KD_PARAM_SHARED_DOWN:
        return shape(dims, shared_dims, width, shared, 1);
    case KD_PARAM_SHARED_GATE:
        return shape(dims, shared_dims, 1, width, 1);
    case KD_PARAM_ROLE_COUNT:
        break;
    }
    KD_CHECK(role < KD_PARAM_ROLE_COUNT);
    return 0;
}

static bool in_every_layer(kd_parameter_role role)
{
    return role != KD_PARAM_EMBEDDING && role != KD_PARAM_FINAL_NORM && role != KD_PARAM_LM_HEAD;
}

/* Fills in the entries of a shape, layer by layer; returns how many. */
static size_t list_entries(const kd_model_config *c, kd_parameter *entries)
{
    size_t n = 0;

    for (int64_t layer = 0; layer < c->n_layers; layer++) {
        for (int i = 0; i < KD_PARAM_ROLE_COUNT; i++) {
            const kd_parameter_role role = (kd_parameter_role)i;
            kd_parameter entry = {.role = role, .layer = layer};
            entry.n_dims = role_shape(c, role, entry.dims);
            if (entry.n_dims > 0 && (layer == 0 || in_every_layer(role))) {
                (void)snprintf(entry.name, sizeof entry.name, "%s.%lld", role_names[role],
                               (long long)layer);
                entries[n++] = entry;
            }
        }
    }
    return n;
}

kd_status kd_parameters_create(kd_backend *be,
                               const kd_model_config *config,
                               kd_parameter_use use,
                               kd_parameters **params_out)
{
    kd_status st = kd_model_config_check(config);
    if (st) {
        return st;
    }
    const size_t n_max = (size_t)config->n_layers * KD_PARAM_ROLE_COUNT;
    kd_parameter *entries = calloc(n_max, sizeof *entries);
    if (entries == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a table of %zu parameters", n_max);
    }
    kd_parameters *params;
    st = kd_parameters_create_table(be, entries, list_entries(config, entries), use, &params);
    if (!st) {
        params->config = *config;
        *params_out = params;
    }
    free(entries);
    return st;
}
