/*
 * parameters.h - all weights of one group (group.h), a decoder's for one: a table of names and
 * places over flat slabs.
 *
 * Matrices come first, vectors (norm weights, biases) after them; each is a range of the
 * flat numbering [0, n_elements). The slabs share that numbering:
 *
 *   master  (n) f32      weights that are trained; only in training
 *   grad    (n) f32      sums of gradients; only in training
 *   compute (n_matrix)   what products read: compute dtype; in f32 training it is master itself
 *   vectors (n - n_matrix) f32   what norms and biases read; in training the tail of master
 *
 * So the optimizer, the all-reduce and the checkpoint see plain arrays, and no code
 * depends on the order of the table. Ranges begin at multiples of KD_PARAM_ALIGN; what lies
 * between them is zero, gets no gradient, and so stays zero.
 */
#ifndef KD_MODEL_PARAMETERS_H
#define KD_MODEL_PARAMETERS_H

#include "shape/config.h"
#include "tensor/ops.h"

#define KD_PARAM_ALIGN      32 /* elements: a cache line of bf16 */
#define KD_PARAM_NAME_BYTES 56

typedef enum kd_parameter_role {
    KD_PARAM_EMBEDDING,      /* (V, C)                                                     */
    KD_PARAM_ATTENTION_NORM, /* (C)                                                        */
    KD_PARAM_QKV,            /* ((H + 2 G) D, C): rows of queries, then keys, then values  */
    KD_PARAM_QKV_BIAS,       /* ((H + 2 G) D)                                              */
    KD_PARAM_Q_NORM,         /* (D) or (H D)                                               */
    KD_PARAM_K_NORM,         /* (D) or (G D)                                               */
    KD_PARAM_ATTENTION_OUT,  /* (C, H D)                                                   */
    KD_PARAM_MLP_NORM,       /* (C)                                                        */
    KD_PARAM_ROUTER,         /* (E, C)                                                     */
    KD_PARAM_GATE_UP,        /* (E, 2 F, C): per expert rows of gate, then up; E is 1 when dense */
    KD_PARAM_DOWN,           /* (E, C, F)                                                  */
    KD_PARAM_SHARED_GATE_UP, /* (2 F', C)                                                  */
    KD_PARAM_SHARED_DOWN,    /* (C, F')                                                    */
    KD_PARAM_SHARED_GATE,    /* (1, C)                                                     */
    KD_PARAM_FINAL_NORM,     /* (C)                                                        */
    KD_PARAM_LM_HEAD,        /* (V, C); absent when tied                                   */
    KD_PARAM_ROLE_COUNT,     /* and what is no part of a decoder: found by its name             */
} kd_parameter_role;

/* "embedding", "attention_norm", ...: the role in lower case. */
const char *kd_parameter_role_name(kd_parameter_role role);

typedef struct kd_parameter {
    char name[KD_PARAM_NAME_BYTES]; /* unique in its table; a decoder's: "<role>.<layer>" */
    kd_parameter_role role;
    int64_t layer;                    /* 0 for those outside the layers */
    int n_dims;                       /* 1: a vector                    */
    int64_t dims[KD_TENSOR_DIMS_MAX]; /* as in kd_tensor                */
    int64_t offset;                   /* first element in the flat numbering */
    int64_t n_elements;
    bool written; /* its gradient holds something of this step; see kd_weight_adds() */
} kd_parameter;

typedef enum kd_parameter_use { KD_PARAMS_INFER, KD_PARAMS_TRAIN } kd_parameter_use;

typedef struct kd_parameters {
    kd_backend *be;
    kd_model_config config; /* {0} if they are no decoder's */
    kd_parameter_use use;
    kd_parameter *table;
    int n_table;
    int64_t n_elements; /* of the flat numbering, gaps included; a multiple of KD_PARAM_ALIGN */
    int64_t n_matrix;   /* likewise                                                           */
    kd_tensor master;   /* (n_elements) f32, or none                       */
    kd_tensor grad;     /* (n_elements) f32, or none                       */
    kd_tensor compute;  /* (n_matrix) compute dtype                        */
    kd_tensor vectors;  /* (n_elements - n_matrix) f32                     */
    kd_tensor stage;    /* f32, where host values wait for their cast to bf16; or none */
    void *slab;
    char *source_config; /* owned: text of the config.json that came with the values; NULL: none */
} kd_parameters;

/*
 * Lays out the table and allocates the slabs, all zero: of a decoder of this shape, which is checked
 * first, or of any `n` entries of which name, role, layer, n_dims and dims (1 where unused) are given.
 */
KD_MUST_USE kd_status kd_parameters_create(kd_backend *be,
                                           const kd_model_config *config,
                                           kd_parameter_use use,
                                           kd_parameters **params_out);
KD_MUST_USE kd_status kd_parameters_create_table(kd_backend *be,
                                                 const kd_parameter *entries,
                                                 size_t n,
                                                 kd_parameter_use use,
                                                 kd_parameters **params_out);
void kd_parameters_destroy(kd_parameters *params);

/*
 * Start values, a function of (seed, role, layer, element) alone: matrices normal with deviation
 * 0.02, those that write to the residual stream (attention out, down) divided by sqrt(2 L);
 * norms 1; biases 0. In training and in inference. Takes the back end's threads, ticks progress.h, and
 * waits for the queue.
 */
KD_MUST_USE kd_status kd_parameters_init(kd_parameters *params, uint64_t seed);

/* What its slab is made of. */
typedef struct kd_parameters_memory {
    size_t
        weight_bytes; /* what products and norms read, where that is no part of the master weights */
    size_t master_bytes, gradient_bytes;
    size_t stage_bytes;
} kd_parameters_memory;

kd_parameters_memory kd_parameters_memory_of(const kd_parameters *params);

/* The entry of a role and layer, or NULL if this shape has none. */
const kd_parameter *
kd_parameters_find(const kd_parameters *params, kd_parameter_role role, int64_t layer);

/* What products and norms read: compute for matrices, vectors for vectors, in the entry's shape. */
kd_tensor kd_parameters_value(const kd_parameters *params, const kd_parameter *entry);
/* The f32 gradient, in the entry's shape. */
kd_tensor kd_parameters_grad(const kd_parameters *params, const kd_parameter *entry);

/* One weight and its gradient as above; the gradient is none in inference. */
typedef struct kd_weight {
    kd_tensor value;
    kd_tensor grad;
    bool *written; /* of its entry */
} kd_weight;

/*
 * For whoever is about to give a gradient: whether it is added to what others gave in this step. The
 * first writes, so that nothing clears the slab beforehand.
 */
static inline bool kd_weight_adds(kd_weight weight)
{
    const bool adds = *weight.written;
    *weight.written = true;
    return adds;
}

/* Begins a step: the first gradient that anyone gives is written. */
void kd_parameters_clear_grad(kd_parameters *params);

/* Ends it: the gradient of whatever nobody gave one becomes 0, if training. */
void kd_parameters_settle_grad(kd_parameters *params);

/* Both of a role and layer; both none if this shape has no such entry. */
kd_weight kd_parameters_weight(const kd_parameters *params, kd_parameter_role role, int64_t layer);

/*
 * Writes n values from host memory into the flat numbering at `first` (master and compute, or the
 * inference slabs); reads them back (from master, or the inference slabs). Writing has read the values
 * when it returns, and waits for nothing; reading waits for the queue.
 */
void kd_parameters_write(kd_parameters *params, int64_t first, const float *values, int64_t n);
void kd_parameters_read(const kd_parameters *params, int64_t first, float *values, int64_t n);

#endif
