/* The gradients that a probe adds, against central differences. */
#include <criterion/criterion.h>

#include "tests/support/differences.h"
#include "tests/support/probing.h"

static double probe_loss(void *user)
{
    probing *p = user;
    tap_run_forward(p->run);
    return p->loss;
}

static void check_gradients(const kd_model_type *type,
                            int64_t layer,
                            kd_tap_point point,
                            const int32_t *experts,
                            int64_t n_experts)
{
    tap_run run = tap_run_start(type, KD_F32, KD_PARAMS_TRAIN, true);
    probing p = {.run = &run, .layer = layer};

    probing_ask(&p, experts, PROBING_ROWS, n_experts);
    tap_run_listen(&run, KD_TAP_BIT(point), NULL, &p, probing_at);
    tap_run_forward_backward(&run);
    const differences d = {.params = run.model.params,
                           .loss = probe_loss,
                           .user = &p,
                           .stride = 5,
                           .skip = KD_PARAM_LM_HEAD};
    differences_check(&d, type->name);
    kd_probe_destroy(p.probe);
    tap_run_finish(&run);
}

Test(probe, gradients_of_probing_all_agree_with_differences)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        if (kd_model_type_at(t)->has_experts) {
            check_gradients(kd_model_type_at(t), 0, KD_TAP_ROUTER, probing_all, PROBING_EXPERTS);
            check_gradients(kd_model_type_at(t), 1, KD_TAP_EXPERT_OUT, probing_all,
                            PROBING_EXPERTS);
        }
    }
}

Test(probe, gradients_of_chosen_experts_agree_with_differences)
{
    const int32_t some[] = {3, 0, 3, 1, 0, 3}; /* none for expert 2 */
    check_gradients(&kd_model_qwen2_moe, 1, KD_TAP_EXPERT_IN, some, 2);
    check_gradients(&kd_model_mixtral, 0, KD_TAP_ROUTER, some, 2);
}
