/* What a listener adds to the gradient at a tap, against central differences. */
#include <criterion/criterion.h>

#include <stdio.h>

#include "tests/support/differences.h"
#include "tests/support/tap_pull.h"

static double pull_loss(void *user)
{
    tap_pull *p = user;
    p->loss = 0.0;
    tap_run_forward(p->run);
    return p->loss;
}

static void check_point(const kd_model_type *type, kd_tap_point point, const char *what)
{
    tap_run run = tap_run_start(type, KD_F32, KD_PARAMS_TRAIN, true);
    tap_pull p = {.run = &run};
    char name[64];

    (void)snprintf(name, sizeof name, "%s at %s", what, type->name);
    tap_run_listen(&run, KD_TAP_BIT(point), NULL, &p, tap_pull_at);
    tap_run_forward_backward(&run);
    const differences d = {.params = run.model.params,
                           .loss = pull_loss,
                           .user = &p,
                           .stride = 5,
                           .skip = KD_PARAM_LM_HEAD};
    differences_check(&d, name);
    tap_run_finish(&run);
}

static void check_every_type(kd_tap_point point, bool of_experts, const char *what)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        if (kd_model_type_at(t)->has_experts || !of_experts) {
            check_point(kd_model_type_at(t), point, what);
        }
    }
}

Test(taps, a_gradient_added_at_hidden_agrees_with_differences)
{
    check_every_type(KD_TAP_HIDDEN, false, "hidden");
}

Test(taps, a_gradient_added_at_the_router_agrees_with_differences)
{
    check_every_type(KD_TAP_ROUTER, true, "router");
}

Test(taps, a_gradient_added_at_expert_in_agrees_with_differences)
{
    check_every_type(KD_TAP_EXPERT_IN, true, "expert_in");
}

Test(taps, a_gradient_added_at_expert_out_agrees_with_differences)
{
    check_every_type(KD_TAP_EXPERT_OUT, true, "expert_out");
}

Test(taps, a_gradient_added_at_keys_agrees_with_differences)
{
    check_every_type(KD_TAP_KEY, false, "key");
}

Test(taps, a_gradient_added_at_values_agrees_with_differences)
{
    check_every_type(KD_TAP_VALUE, false, "value");
}
