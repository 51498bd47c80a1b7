/*
 * weight.h - gradients of weights: the first of a step is written, others are added; none if frozen.
 *
 * Internal to lib/model. Shapes are those of the operations in ops.h.
 */
#ifndef KD_MODEL_WEIGHT_H
#define KD_MODEL_WEIGHT_H

#include "model/parameters.h"

static inline bool kd_weight_trained(kd_weight weight)
{
    return weight.grad.data != NULL;
}

static inline void
kd_weight_linear_grad(kd_backend *be, kd_weight weight, kd_tensor dy, kd_tensor x)
{
    if (kd_weight_trained(weight)) {
        be->ops->linear_backward_w(be, weight.grad, dy, x, kd_weight_adds(weight));
    }
}

static inline void kd_weight_bias_grad(kd_backend *be, kd_weight weight, kd_tensor dy)
{
    if (kd_weight_trained(weight)) {
        be->ops->bias_backward(be, weight.grad, dy, kd_weight_adds(weight));
    }
}

static inline void kd_weight_experts_grad(kd_backend *be,
                                          kd_weight weight,
                                          kd_tensor dy,
                                          kd_tensor x,
                                          const kd_route *route)
{
    if (kd_weight_trained(weight)) {
        be->ops->experts_backward_w(be, weight.grad, dy, x, route, kd_weight_adds(weight));
    }
}

static inline void
kd_weight_embed_grad(kd_backend *be, kd_weight weight, kd_tensor dy, kd_tensor ids)
{
    if (kd_weight_trained(weight)) {
        be->ops->embed_backward(be, weight.grad, dy, ids, kd_weight_adds(weight));
    }
}

#endif
