/*
 * decoder_state.h - what a decoder is made of. Internal to lib/model.
 */
#ifndef KD_MODEL_DECODER_STATE_H
#define KD_MODEL_DECODER_STATE_H

#include "model/decoder.h"
#include "model/layer.h"
#include "model/probe.h"

struct kd_decoder {
    kd_parameters *params;
    kd_decoder_settings settings;
    kd_weight embedding;  /* (V, C) */
    kd_weight lm_head;    /* (V, C) */
    kd_weight final_norm; /* (C)    */
    kd_layer *layers;     /* (L)    */

    size_t keys_bytes;
    void *keys;       /* kept for listeners, of all layers where they listen; or NULL */
    kd_probe *probes; /* whose gradient waits for that of their layer; or NULL        */

    void *slab; /* all that follows is carved from it */
    size_t slab_bytes;
    kd_pass pass;
    kd_tensor tokens;    /* (N) i32                               */
    kd_tensor positions; /* (N) i32, where a batch has some       */
    kd_tensor segments;  /* likewise                              */
    kd_tensor x;         /* (N, C) f32, what the final norm reads */
    kd_tensor rstd;      /* (N) f32                               */
    kd_tensor hidden;    /* (N, C) compute                        */
    kd_layer_acts *acts; /* (L) in training, else (1)             */
    kd_layer_grads grads;
};

/* The activations that a layer writes: its own in training, else those of all. */
const kd_layer_acts *kd_decoder_acts(const kd_decoder *decoder, int64_t layer);

#endif
