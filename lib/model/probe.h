/*
 * probe.h - the experts of a layer on rows of one's own choice: what E_e(x) is for other rows and
 * experts than the router chose. For losses that compare experts; called from a tap.
 *
 *   forward    for each of M rows n and its K experts e:  out = down_e(swiglu(gate_up_e(x_n)))
 *              x is what the layer's experts read, after the norm
 *   backward   from the gradient of out: adds to the gradients of gate_up and down, and to that of
 *              x, which joins what the layer's own experts, router and shared expert give it
 *
 * A probe has buffers of its own for one call at a time: forward, then backward of the same layer.
 * Nothing allocates after creation.
 *
 * Threads: the thread of the back end.
 */
#ifndef KD_MODEL_PROBE_H
#define KD_MODEL_PROBE_H

#include "model/decoder.h"

typedef struct kd_probe kd_probe;

/*
 * For at most max_rows rows, each on n_experts (K) of the experts; the decoder, which has experts,
 * must outlive it. KD_ERR_NOMEM.
 */
KD_MUST_USE kd_status kd_probe_create(kd_decoder *decoder,
                                      int64_t max_rows,
                                      int64_t n_experts,
                                      kd_probe **probe_out);
void kd_probe_destroy(kd_probe *probe);

/*
 * rows (n_rows): different rows of the micro-batch; experts (n_rows, K): different ones for each row.
 * Both in host memory. During the layer's forward pass from `router` on; in training until its
 * backward pass has offered `router`.
 */
void kd_experts_probe_forward(kd_probe *probe,
                              int64_t layer,
                              const int32_t *rows,
                              const int32_t *experts,
                              int64_t n_rows);

/*
 * Of the last forward, valid until the next. Rows of the two tensors are those of the route:
 * position (n_rows, K) says where each pair is, token which of the n_rows a row belongs to, -1 for
 * padding.
 */
const kd_route *kd_probe_route(const kd_probe *probe);
kd_tensor kd_probe_out(const kd_probe *probe); /* (R, C) compute                            */
kd_tensor
kd_probe_gradient(const kd_probe *probe); /* likewise: for the caller to write, padding 0 */

/* From kd_probe_gradient(), which is used up. In training, from a backward tap of that layer. */
void kd_experts_probe_backward(kd_probe *probe);

#endif
