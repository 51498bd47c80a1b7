/*
 * taps.h - points of a pass through the decoder where others may look, and add gradients.
 *
 * In the forward pass a listener sees a tensor as soon as it holds its value. In the backward pass
 * it sees it again, with the gradient that later parts of the model have left there so far, and may
 * add its own: that is how losses over layers act. Within a layer the points come in this order:
 *
 *   forward   hidden of the layer before, key, value, router, expert_in, expert_out
 *   backward  hidden of this layer, expert_out, expert_in, router, value, key
 *
 *   point        value                                                   gradient
 *   hidden       (N, C) f32, residual stream after the layer, no norm    f32
 *   router       (N, E) f32, logits; the route is made already           f32
 *   expert_in    (R, C) compute, rows that experts read                  compute
 *   expert_out   (R, C) compute, what they write, before any weight      compute
 *   key          (N, G D) compute, after head norm, before rotation      compute
 *   value        (N, G D) compute                                        compute
 *
 * `hidden` of a layer is offered once the next norm has formed it: the next layer's first, or the
 * final one. A dense layer has no router, expert_in and expert_out. Rows of experts are those of
 * the route: padding (token -1) and what lies past offset[E] is to be left alone. Tensors may be
 * columns of a wider one, and hold their values during the call only.
 *
 * Listeners put operations on the back end's queue and do not wait for it. They are called in the
 * order of the list. Where nobody listens nothing is done and nothing is kept.
 *
 * Threads: that of the back end.
 */
#ifndef KD_MODEL_TAPS_H
#define KD_MODEL_TAPS_H

#include "model/batch.h"
#include "tensor/ops.h"

typedef enum kd_tap_point {
    KD_TAP_HIDDEN,
    KD_TAP_ROUTER,
    KD_TAP_EXPERT_IN,
    KD_TAP_EXPERT_OUT,
    KD_TAP_KEY,
    KD_TAP_VALUE,
    KD_TAP_COUNT,
} kd_tap_point;

#define KD_TAP_BIT(point) (1u << (point))

typedef struct kd_tap {
    kd_tap_point point;
    int64_t layer;         /* from 0 */
    kd_tensor value;       /* not to be written                                                   */
    kd_tensor gradient;    /* of the same shape, to be added to; none in the forward pass         */
    const kd_route *route; /* of router, expert_in and expert_out, else NULL                      */
    const kd_batch *batch; /* that goes through the model                                         */
    kd_tensor segments;    /* of the batch, (N) i32 on the back end: -1 is padding; or none       */
    bool again;            /* a forward pass that is run again to save memory: to be passed over  */
} kd_tap;

typedef struct kd_listener {
    unsigned points;    /* KD_TAP_BIT()s                                                     */
    const bool *layers; /* (L), true where it listens; NULL: everywhere. Borrowed            */
    void *user;
    void (*at)(void *user, const kd_tap *tap);
} kd_listener;

#endif
