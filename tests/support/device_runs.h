/*
 * device_runs.h - each operation that has tensors as a function of side.h: device_run_NAME calls NAME, in all
 * its forms, with tensors that it makes from the side's shape.
 */
#ifndef KD_TESTS_SUPPORT_DEVICE_RUNS_H
#define KD_TESTS_SUPPORT_DEVICE_RUNS_H

#include "tests/support/side.h"

/* clang-format off */
#define DEVICE_RUNS_EACH(X)                                                                        \
    X(zero) X(copy) X(add) X(upload) X(download)                                                   \
    X(linear) X(linear_backward_x) X(linear_backward_w) X(bias) X(bias_backward)                   \
    X(embed) X(embed_backward) X(norm) X(norm_backward) X(head_norm) X(head_norm_backward)         \
    X(rotate) X(head_norm_rotate) X(head_norm_rotate_backward)                                     \
    X(attention) X(attention_backward) X(swiglu) X(swiglu_backward)                                \
    X(route) X(route_backward) X(router_loss)                                                      \
    X(dispatch) X(dispatch_backward) X(combine) X(combine_backward)                                \
    X(gated_add) X(gated_add_backward)                                                             \
    X(experts) X(experts_backward_x) X(experts_backward_w)                                         \
    X(vocab_loss) X(sum_squares) X(adamw)
/* clang-format on */

#define DEVICE_DECLARE(name) void device_run_##name(side *d);
DEVICE_RUNS_EACH(DEVICE_DECLARE)

/* Routing where many logits are equal, and some so low that their probabilities are the least there are. */
void device_run_route_with_ties(side *d);

/* Which operations this process has called. */
#define DEVICE_NUMBER(op) DEVICE_##op,

enum { KD_OPS_EACH(DEVICE_NUMBER) DEVICE_OPS };

extern bool device_called[DEVICE_OPS];

#define CALL(d, op, ...) (device_called[DEVICE_##op] = true, (d)->be->ops->op((d)->be, __VA_ARGS__))

#endif
