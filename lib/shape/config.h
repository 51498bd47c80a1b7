/*
 * config.h - the shape of a decoder: one parametric transformer that covers the types of type.h.
 *
 * It is resolved: every size is there, as a 64-bit number, and nothing has a default. It is made by
 * a type's row from a job's Model (from_message.h) or from config.json (hf_config.h).
 */
#ifndef KD_SHAPE_CONFIG_H
#define KD_SHAPE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "shape/type.h"

/* Experts that the operations on routed rows have room for. */
#define KD_MODEL_EXPERTS_MAX 1024

typedef struct kd_model_config {
    const kd_model_type *type;
    int64_t vocab_size;         /* V */
    int64_t hidden_size;        /* C */
    int64_t n_layers;           /* L */
    int64_t n_heads;            /* H */
    int64_t n_kv_heads;         /* G, divides H */
    int64_t head_dim;           /* D, even */
    int64_t intermediate_size;  /* F, of the dense MLP or of one expert */
    int64_t n_experts;          /* E, 0: a dense MLP */
    int64_t experts_per_token;  /* K <= E, 0 if dense */
    int64_t shared_expert_size; /* width of the gated shared expert, 0: none */
    bool norm_topk;             /* routing weights sum to 1 */
    bool qkv_bias;
    kd_qk_norm qk_norm;
    bool tied_embeddings; /* lm_head is the embedding */
    int64_t window;       /* rows that a row attends to, itself included; 0: all before it */
    double rope_theta;
    float norm_eps;
    int64_t max_positions; /* as written to config.json; 0: unknown */
} kd_model_config;

/* What follows from the type alone: norm_topk, qkv_bias, qk_norm. */
void kd_model_config_apply_type(kd_model_config *config);

/*
 * The layers that have a router and experts, the others being dense: what a loss over routers is a mean
 * over. All or none, as long as no shape says otherwise: config.json with dense layers among sparse ones
 * is refused (decoder_sparse_step, mlp_only_layers).
 */
int64_t kd_model_config_sparse_layers(const kd_model_config *config);

/* Hears of one thing that is wrong: `field` as Model has it, `text` "found X, expected Y". */
typedef void kd_model_tell(void *context, const char *field, const char *text);

/*
 * Tells all that is wrong with a shape (what the decoder cannot run, what transformers could not
 * load, sizes whose products would not fit 64 bits) and returns how many things that are.
 */
int kd_model_config_judge(const kd_model_config *config, kd_model_tell *tell, void *context);

/* The same for callers that want the first alone: KD_ERR_INVALID, "model.FIELD: found X, expected Y". */
KD_MUST_USE kd_status kd_model_config_check(const kd_model_config *config);

#endif
