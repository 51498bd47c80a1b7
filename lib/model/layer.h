/*
 * layer.h - one layer of the decoder: attention, then a mixture of experts or a dense MLP, each added
 * to the residual stream by the norm that comes next (attention.h, moe.h).
 *
 * Internal to lib/model. Threads: the thread of the back end.
 */
#ifndef KD_MODEL_LAYER_H
#define KD_MODEL_LAYER_H

#include "model/attention.h"
#include "model/moe.h"

typedef struct kd_layer {
    int64_t index; /* from 0 */
    kd_attention_weights attention;
    kd_moe_weights moe;
} kd_layer;

/* What the forward pass leaves for the backward pass; in inference shared by all layers. */
typedef struct kd_layer_acts {
    kd_attention_acts attention;
    kd_moe_acts moe;
} kd_layer_acts;

/* Shared by all layers; the two halves never live together. */
typedef struct kd_layer_grads {
    kd_attention_grads attention;
    kd_moe_grads moe; /* inference needs its `rows` too */
} kd_layer_grads;

void kd_layer_find(kd_layer *layer, const kd_parameters *params, int64_t index);

/* How many numbers the regions (ops.h) of a decoder's layers take, from pass.first_region on. */
int kd_layer_regions(const kd_model_config *config);

/* Carve the tensors for the pass's n_rows; touch no values. */
void kd_layer_acts_layout(kd_layer_acts *acts, const kd_pass *pass, kd_arena *arena);
void kd_layer_grads_layout(kd_layer_grads *grads, const kd_pass *pass, kd_arena *arena);

/*
 * The residual stream that enters is x + delta (delta may be none); the one that leaves is the x that
 * is returned, plus pass->delta.
 */
kd_tensor kd_layer_forward(const kd_pass *pass,
                           const kd_layer *layer,
                           const kd_layer_acts *acts,
                           const kd_layer_grads *scratch,
                           kd_tensor x,
                           kd_tensor delta);

/* Adds to the gradients of the weights, and to pass->dx what flows through this layer. */
void kd_layer_backward(const kd_pass *pass,
                       const kd_layer *layer,
                       const kd_layer_acts *acts,
                       const kd_layer_grads *grads);

#endif
