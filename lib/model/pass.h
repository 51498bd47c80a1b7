/*
 * pass.h - one micro-batch on its way through the model: its size, and what all layers share.
 *
 * Internal to lib/model.
 */
#ifndef KD_MODEL_PASS_H
#define KD_MODEL_PASS_H

#include "model/parameters.h"
#include "model/taps.h"

/* Who listens. */
typedef struct kd_taps {
    kd_listener *listeners; /* (n), in the order of the calls              */
    int n;
    unsigned *points; /* (L), KD_TAP_BIT()s that anyone asks of that layer */
} kd_taps;

typedef struct kd_pass {
    kd_backend *be;
    const kd_model_config *config;
    bool train;
    int64_t n_batch;     /* B                                                                  */
    int64_t n_tokens;    /* T                                                                  */
    int64_t n_rows;      /* N = B T                                                            */
    kd_tensor rope;      /* (T, D) f32: cosines, sines                                         */
    kd_tensor positions; /* (N) i32, or none: row mod T                                   */
    kd_tensor segments;  /* (N) i32, or none: a sequence is one                           */
    kd_tensor delta;     /* (N, C) be->delta: what the last half adds to the residual stream   */
    kd_tensor dx;        /* (N, C) f32: gradient of the residual stream, and so of delta; train */
    kd_taps taps;
    struct kd_probe **probes; /* of the decoder: whose gradient waits for the layer under way */
    kd_batch batch;   /* what kd_decoder_forward() was given                                */
    int first_region; /* of kd_layer_regions()                                        */
    void (*on_block)(void *user); /* after each half of a layer, or NULL */
    void *user;                   /* of on_block                         */
} kd_pass;

/* Copies the n listeners. KD_ERR_NOMEM. */
KD_MUST_USE kd_status kd_taps_create(kd_taps *taps_out,
                                     int64_t n_layers,
                                     const kd_listener *listeners,
                                     int n);
void kd_taps_release(kd_taps *taps);

static inline bool kd_tap_is_wanted(const kd_pass *pass, kd_tap_point point, int64_t layer)
{
    return (pass->taps.points[layer] & KD_TAP_BIT(point)) != 0;
}

/* Offers a tensor in the forward pass; one and its gradient in the backward pass. */
void kd_tap_forward(const kd_pass *pass,
                    kd_tap_point point,
                    int64_t layer,
                    kd_tensor value,
                    const kd_route *route);
void kd_tap_backward(const kd_pass *pass,
                     kd_tap_point point,
                     int64_t layer,
                     kd_tensor value,
                     kd_tensor gradient,
                     const kd_route *route);

/* Adds what probes of the layer have found for its normed rows to d_normed (N, C) f32; see probe.h. */
void kd_probes_join(struct kd_probe **probes, int64_t layer, kd_tensor d_normed);

#endif
