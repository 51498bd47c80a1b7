/* Routing, and what experts do. */
#include "tests/support/device_runs.h"

#include <math.h>

#include "tests/support/ops_check.h"

static int64_t routed_rows(const side *d)
{
    return kd_expert_rows(d->be, d->s.n, d->s.k, d->s.experts);
}

/* A route by random logits; it is compared if `is_output`. */
static kd_route routed(side *d, bool is_output, kd_tensor logits, bool renormalise)
{
    const int64_t n = d->s.n, e = d->s.experts, k = d->s.k;
    const kd_route route = {
        .probs = is_output ? side_out(d, KD_F32, n, e) : side_in(d, KD_F32, n, e),
        .experts = side_ints(d, n, k, is_output),
        .weights = is_output ? side_gradient(d, n, k) : side_weight(d, KD_F32, n, k),
        .position = side_ints(d, n, k, is_output),
        .token = side_as_1d(side_ints(d, 1, routed_rows(d), is_output)),
        .offset = side_as_1d(side_ints(d, 1, e + 1, is_output)),
        .renormalise = renormalise,
    };
    CALL(d, route, &route, logits);
    return route;
}

static kd_route some_route(side *d)
{
    return routed(d, false, side_in(d, KD_F32, d->s.n, d->s.experts), true);
}

void device_run_route(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    (void)routed(d, true, logits, false);
    (void)routed(d, true, logits, true);
}

void device_run_route_backward(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    for (int renormalise = 0; renormalise <= 1; renormalise++) {
        const kd_route route = routed(d, false, logits, renormalise);
        CALL(d, route_backward, side_out(d, KD_F32, d->s.n, d->s.experts),
             side_weight(d, KD_F32, d->s.n, d->s.k), logits, &route);
    }
}

void device_run_router_loss(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    const kd_route route = routed(d, false, logits, true);
    const kd_tensor segments = side_as_1d(side_ints(d, 1, d->s.n, false));
    for (int64_t i = 0; i < d->s.n; i++) {
        kd_test_ints(segments)[i] = i % 3 == 1 ? -1 : 0;
    }
    kd_router_loss loss = {.logits = logits,
                           .d_logits = side_out(d, KD_F32, d->s.n, d->s.experts),
                           .segments = segments,
                           .route = &route,
                           .balance_scale = 0.7f,
                           .z_scale = 0.3f,
                           .balance_sum = side_out_1d(d, KD_F64, 1),
                           .z_sum = side_out_1d(d, KD_F64, 1)};
    CALL(d, router_loss, &loss);
    loss.segments = kd_tensor_none();
    loss.z_sum = kd_tensor_none();
    loss.z_scale = 0.0f;
    CALL(d, router_loss, &loss);
}

void device_run_dispatch(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, dispatch, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), &route);
}

void device_run_dispatch_backward(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, dispatch_backward, side_out(d, d->compute, d->s.n, d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.c), &route);
}

void device_run_combine(side *d)
{
    const kd_route route = some_route(d);
    const kd_tensor x = side_in(d, d->compute, routed_rows(d), d->s.c);
    CALL(d, combine, side_out(d, d->compute, d->s.n, d->s.c), x, &route);
    CALL(d, combine, side_out(d, KD_F32, d->s.n, d->s.c), x, &route);
}

void device_run_combine_backward(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, combine_backward, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_gradient(d, d->s.n, d->s.k), side_in(d, KD_F32, d->s.n, d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.c), &route);
}

void device_run_gated_add(side *d)
{
    const kd_tensor x = side_in(d, d->compute, d->s.n, d->s.c),
                    gate = side_in(d, KD_F32, d->s.n, 1);
    CALL(d, gated_add, side_out(d, d->compute, d->s.n, d->s.c), x, gate);
    CALL(d, gated_add, side_out(d, KD_F32, d->s.n, d->s.c), x, gate);
}

void device_run_gated_add_backward(side *d)
{
    CALL(d, gated_add_backward, side_out(d, d->compute, d->s.n, d->s.c),
         side_out(d, KD_F32, d->s.n, 1), side_in(d, KD_F32, d->s.n, d->s.c),
         side_in(d, d->compute, d->s.n, d->s.c), side_in(d, KD_F32, d->s.n, 1));
}

/* All experts' weights, or their gradient. */
static kd_tensor of_experts(const side *d, kd_tensor t)
{
    return kd_tensor_3d(t.data, t.dtype, d->s.experts, d->s.o, d->s.c);
}

void device_run_experts(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, experts, side_out(d, d->compute, routed_rows(d), d->s.o),
         side_in(d, d->compute, routed_rows(d), d->s.c),
         of_experts(d, side_weight(d, d->compute, d->s.experts * d->s.o, d->s.c)), &route);
}

void device_run_experts_backward_x(side *d)
{
    const kd_route route = some_route(d);
    CALL(d, experts_backward_x, side_out(d, d->compute, routed_rows(d), d->s.c),
         side_in(d, d->compute, routed_rows(d), d->s.o),
         of_experts(d, side_weight(d, d->compute, d->s.experts * d->s.o, d->s.c)), &route);
}

void device_run_experts_backward_w(side *d)
{
    const kd_route route = some_route(d);
    const kd_tensor dy = side_in(d, d->compute, routed_rows(d), d->s.o);
    const kd_tensor x = side_in(d, d->compute, routed_rows(d), d->s.c);
    for (int accumulate = 0; accumulate <= 1; accumulate++) {
        const kd_tensor dw = side_gradient(d, d->s.experts * d->s.o, d->s.c);
        CALL(d, experts_backward_w, of_experts(d, dw), dy, x, &route, accumulate);
    }
}

/* Many logits are equal, and some so low that their probabilities are the least there are. */
void device_run_route_with_ties(side *d)
{
    const kd_tensor logits = side_in(d, KD_F32, d->s.n, d->s.experts);
    for (int64_t i = 0; i < d->s.n * d->s.experts; i++) {
        const int64_t row = i / d->s.experts, e = i % d->s.experts;
        const double step = round(8.0 * kd_test_get(logits, row, e)) / 8.0;
        kd_test_set(logits, row, e,
                    i % 5 == 3    ? -90.0 - step
                    : i % 11 == 7 ? (double)-INFINITY
                                  : step);
    }
    (void)routed(d, true, logits, true);
}
