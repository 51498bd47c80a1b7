/*
 * type.h - the types of models, in the words of Hugging Face: one row each, which holds all that
 * only the type knows. A new one is a file in types/ and a line in types/list.h.
 *
 * Constant, so it may be read from any thread.
 */
#ifndef KD_SHAPE_TYPE_H
#define KD_SHAPE_TYPE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* How queries and keys are normalised before the rotary embedding. */
typedef enum kd_qk_norm {
    KD_QK_NORM_NONE,
    KD_QK_NORM_HEAD, /* each head by itself          */
    KD_QK_NORM_ROW,  /* all heads of a row together  */
} kd_qk_norm;

/* Whether attention may see a window of rows only: config.json's sliding_window. */
typedef enum kd_window_key {
    KD_WINDOW_NEVER,    /* the type's code knows none                              */
    KD_WINDOW_GIVEN,    /* in all layers if there is a number; missing: none       */
    KD_WINDOW_SWITCHED, /* in all layers, if use_sliding_window is set, and a number */
} kd_window_key;

/* A key of config.json and the one value of it that is supported, as JSON: {"mlp_bias", "false"}. */
typedef struct kd_fixed_key {
    const char *name, *value;
} kd_fixed_key;

/*
 * Names of a layer's tensors behind "model.layers.N."; '*' stands for the number of the expert, and
 * a name without one is that of a dense MLP. NULL: the type has no such tensor.
 */
typedef struct kd_mlp_names {
    const char *router;                                /* (E, C)         */
    const char *gate, *up, *down;                      /* (F, C), (C, F) */
    const char *shared_gate, *shared_up, *shared_down; /* the same of the shared expert */
    const char *shared_router;                         /* (1, C)         */
} kd_mlp_names;

typedef struct kd_model_type {
    const char *name;         /* model_type of config.json, `type` of a job's model */
    const char *architecture; /* the class that config.json names                   */

    /* What its code has no switch for, unless config.json has a key for it below. */
    bool has_experts;
    bool has_shared_expert; /* one in every layer; otherwise there is none           */
    bool whole_heads;       /* num_heads divides hidden_size, whatever head_dim says */
    bool norm_topk;         /* the weights of a token's experts sum to 1             */
    bool qkv_bias;
    kd_qk_norm qk_norm;
    kd_window_key window;

    /* Names of config.json; NULL: it has no such key, and the value is as above. */
    const char *key_intermediate_size; /* of the MLP, or of one expert       */
    const char *key_num_experts;
    const char *key_shared_expert_size;
    const char *key_norm_topk; /* a missing one means false */
    const char *key_qkv_bias;  /* a missing one means true  */
    bool kv_heads_optional;    /* a missing num_key_value_heads means as many as heads */
    double rope_theta;         /* if it is missing                                     */
    const kd_fixed_key *fixed; /* read and written; ends with a row without a name     */

    kd_mlp_names mlp;
} kd_model_type;

#define KD_MODEL_TYPE(name) extern const kd_model_type kd_model_##name;
#include "shape/types/list.h"
#undef KD_MODEL_TYPE

/* The rows in the order of the list: index < kd_model_type_count(). */
size_t kd_model_type_count(void);
const kd_model_type *kd_model_type_at(size_t index);

/*
 * KD_ERR_INVALID: "FIELD: found NAME, expected one of ...", with all names and the nearest one;
 * `field` says whose name it is.
 */
KD_MUST_USE kd_status kd_model_type_find(const char *name,
                                         const char *field,
                                         const kd_model_type **type_out);

#endif
