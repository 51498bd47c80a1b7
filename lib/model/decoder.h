/*
 * decoder.h - the transformer's forward and backward pass over one micro-batch.
 *
 *   h = embed(tokens)
 *   for each layer:  h += attention(norm(h));  h += moe(norm(h))      (layer.h)
 *   hidden = norm(h)
 *
 * The lm_head is not part of it: whoever needs logits multiplies rows of hidden with
 * kd_decoder_lm_head() in chunks, so that (N, V) never exists.
 *
 * Parameters created for inference are frozen: a decoder in training passes gradients through them
 * and computes none of their own.
 *
 * In training all activations are kept for the backward pass, in one slab carved at creation; in
 * inference layers share their buffers. Nothing allocates after creation.
 *
 * Threads: the thread of the back end. The parameters must outlive the decoder.
 */
#ifndef KD_MODEL_DECODER_H
#define KD_MODEL_DECODER_H

#include "model/batch.h"
#include "model/parameters.h"
#include "model/taps.h"

typedef struct kd_decoder kd_decoder;

typedef struct kd_decoder_settings {
    int64_t max_batch; /* B: sequences of a micro-batch at most                        */
    int64_t n_tokens;  /* T: tokens of each sequence                                   */
    bool train;        /* keep what backward needs                                     */
    /* Called between blocks, or NULL: lets message passing make progress. */
    void (*on_block)(void *user);
    void *user;
} kd_decoder_settings;

/* KD_ERR_INVALID: sequences longer than the model's positions, where its configuration tells those. */
KD_MUST_USE kd_status kd_decoder_create(kd_parameters *params,
                                        const kd_decoder_settings *settings,
                                        kd_decoder **decoder_out);
void kd_decoder_destroy(kd_decoder *decoder);

/* Activations, and what is kept for those who listen. */
size_t kd_decoder_bytes(const kd_decoder *decoder);

/* Of at most max_batch sequences of settings.n_tokens each; positions are below that. */
void kd_decoder_forward(kd_decoder *decoder, const kd_batch *batch);

/*
 * From now on these n listeners are offered what taps.h says; 0: nobody. The list is copied. Makes
 * room for the keys of layers where one listens at `key`, if the decoder trains. KD_ERR_NOMEM, and then
 * those who listened before still do. Not during a pass.
 */
KD_MUST_USE kd_status kd_decoder_listen(kd_decoder *decoder, const kd_listener *listeners, int n);

/* (B * T, C) compute, after the final norm; valid until the next forward. */
kd_tensor kd_decoder_hidden(const kd_decoder *decoder);

/* (V, C) compute: the lm_head, or the embedding where tied. As a weight with its gradient (V, C) f32,
 * none where it is frozen. */
kd_tensor kd_decoder_lm_head(const kd_decoder *decoder);
kd_weight kd_decoder_lm_head_weight(const kd_decoder *decoder);

/*
 * Adds the gradient of all parameters for d_hidden (B * T, C) f32, and for what listeners add, to
 * params->grad. Once per forward; the activations are used up.
 */
void kd_decoder_backward(kd_decoder *decoder, kd_tensor d_hidden);

#endif
