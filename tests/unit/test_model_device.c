/*
 * A forward and a backward pass of every type on the back end under test and on the CPU's: hidden states, a loss
 * over all taps, and the gradients of all parameters, to which a listener at every tap adds.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "tests/support/back_end.h"
#include "tests/support/tap_pull.h"

typedef struct outcome {
    float *hidden, *grad; /* owned */
    int64_t n_hidden, n_grad;
    double loss;
} outcome;

/* Gives hidden states and gradients of a run on a back end, which it destroys. */
static outcome outcome_on(kd_backend *be, const kd_model_type *type)
{
    tap_run run = tap_run_start_on(be, type, KD_PARAMS_TRAIN, true);
    tap_pull pull = {.run = &run};
    float *direction = tiny_values(be, run.d_hidden);
    outcome o = {.n_hidden = kd_tensor_elements(run.d_hidden),
                 .n_grad = run.model.params->n_elements};

    for (int64_t i = 0; i < o.n_hidden; i++) {
        direction[i] = (float)kd_rng_normal(kd_rng_key(2, "device"), (uint64_t)i);
    }
    be->ops->upload(be, run.d_hidden, direction);
    tap_run_listen(&run, (1U << KD_TAP_COUNT) - 1, NULL, &pull, tap_pull_at);
    tap_run_forward_backward(&run);
    o.hidden = tiny_values(be, kd_decoder_hidden(run.decoder));
    o.grad = tiny_values(be, run.model.params->grad);
    o.loss = pull.loss;
    free(direction);
    tap_run_finish(&run);
    return o;
}

static void release(outcome *o)
{
    free(o->hidden);
    free(o->grad);
}

static void expect_agreement(kd_dtype compute, double limit)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        const kd_model_type *type = kd_model_type_at(t);
        kd_backend *tested = kd_test_backend(compute, 3), *host = NULL;
        cr_assert_eq(kd_backend_create_cpu(compute, 1, &host), KD_OK);
        host->expert_tile = tested->expert_tile; /* rows of segments are then the same */
        host->delta = tested->delta;
        outcome found = outcome_on(tested, type), wanted = outcome_on(host, type);
        const double hidden = tiny_nmse(found.hidden, wanted.hidden, wanted.n_hidden);
        const double grad = tiny_nmse(found.grad, wanted.grad, wanted.n_grad);
        const double loss = fabs(found.loss - wanted.loss) / fabs(wanted.loss);
        cr_expect_leq(hidden, limit, "%s: hidden: %.2e", type->name, hidden);
        cr_expect_leq(grad, limit, "%s: gradients: %.2e", type->name, grad);
        cr_expect_leq(loss, sqrt(limit), "%s: loss: %.2e", type->name, loss);
        release(&found);
        release(&wanted);
    }
}

Test(model_device, every_type_agrees_in_f32)
{
    expect_agreement(KD_F32, 1e-10);
}

/* No further apart than bf16 may be from f32: sums in another order round to another bf16 here and there. */
Test(model_device, every_type_agrees_in_bf16)
{
    expect_agreement(KD_BF16, 3e-4);
}
