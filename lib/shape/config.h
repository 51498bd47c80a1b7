/*
 * config.h - the shape of a decoder: one parametric transformer that covers the Hugging Face
 * types llama, mixtral, qwen2_moe, qwen3_moe and olmoe.
 */
#ifndef KD_SHAPE_CONFIG_H
#define KD_SHAPE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Experts that the operations on routed rows have room for. */
#define KD_MODEL_EXPERTS_MAX 1024

typedef enum kd_model_type {
    KD_MODEL_LLAMA,
    KD_MODEL_MIXTRAL,
    KD_MODEL_QWEN2_MOE,
    KD_MODEL_QWEN3_MOE,
    KD_MODEL_OLMOE,
    KD_MODEL_TYPE_COUNT,
} kd_model_type;

/* How queries and keys are normalised before the rotary embedding. */
typedef enum kd_qk_norm {
    KD_QK_NORM_NONE,
    KD_QK_NORM_HEAD, /* each head by itself (qwen3_moe) */
    KD_QK_NORM_ROW,  /* all heads of a row together (olmoe) */
} kd_qk_norm;

typedef struct kd_model_config {
    kd_model_type type;
    int64_t vocab_size;         /* V */
    int64_t hidden_size;        /* C */
    int64_t n_layers;           /* L */
    int64_t n_heads;            /* H */
    int64_t n_kv_heads;         /* G, divides H */
    int64_t head_dim;           /* D, even */
    int64_t intermediate_size;  /* F, of the dense MLP or of one expert */
    int64_t n_experts;          /* E, 0: a dense MLP */
    int64_t experts_per_token;  /* K <= E, 0 if dense */
    int64_t shared_expert_size; /* width of the gated shared expert, 0: none (qwen2_moe) */
    bool norm_topk;             /* routing weights sum to 1 */
    bool qkv_bias;
    kd_qk_norm qk_norm;
    bool tied_embeddings; /* lm_head is the embedding */
    double rope_theta;
    float norm_eps;
    int64_t max_positions; /* as written to config.json; 0: unknown */
} kd_model_config;

const char *kd_model_type_name(kd_model_type type); /* "mixtral" */
/* KD_ERR_INVALID names the supported types. */
KD_MUST_USE kd_status kd_model_type_parse(const char *name, kd_model_type *type_out);

/* What follows from the type alone: norm_topk, qkv_bias, qk_norm. */
void kd_model_config_apply_type(kd_model_config *config);

/* KD_ERR_INVALID names the field, what was found and what was expected. */
KD_MUST_USE kd_status kd_model_config_check(const kd_model_config *config);

#endif
