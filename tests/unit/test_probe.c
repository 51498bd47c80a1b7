#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "tests/support/probing.h"

/* What the layer's own experts wrote for the rows asked about, weights left out. */
typedef struct written {
    probing probing;
    float *wanted; /* (PROBING_ROWS, K, C) */
} written;

static void write_down(void *user, const kd_tap *tap)
{
    written *w = user;
    probing *p = &w->probing;
    kd_backend *be = p->run->model.be;
    const int64_t width = kd_tensor_columns(tap->value), k = p->n_experts;
    int32_t experts[TAP_ROWS * PROBING_EXPERTS];

    if (tap->layer != p->layer) {
        return;
    }
    int32_t *position = tiny_ints(be, tap->route->position);
    float *out = tiny_values(be, tap->value);
    be->ops->download(be, experts, tap->route->experts);
    for (int64_t i = 0; i < p->n_rows * k; i++) {
        const int64_t pair = p->rows[i / k] * k + i % k;
        p->experts[i] = experts[pair];
        memcpy(w->wanted + i * width, out + position[pair] * width, (size_t)width * sizeof *out);
    }
    free(position);
    free(out);
    probing_at(p, tap);
}

static void
expect_what_experts_write(const kd_model_type *type, kd_dtype compute, kd_parameter_use use)
{
    tap_run run = tap_run_start(type, compute, use, false);
    const int64_t n = PROBING_ROWS * 2 * run.model.params->config.hidden_size;
    written w = {.probing = {.run = &run, .layer = 1},
                 .wanted = calloc((size_t)n, sizeof *w.wanted)};

    w.probing.out = calloc((size_t)n, sizeof *w.probing.out);
    probing_ask(&w.probing, probing_all, PROBING_ROWS, 2);
    tap_run_listen(&run, KD_TAP_BIT(KD_TAP_EXPERT_OUT), NULL, &w, write_down);
    tap_run_forward(&run);
    cr_expect_gt(tiny_nmse(w.wanted, (float[1]){0}, 1), 0.0);
    cr_expect_lt(tiny_nmse(w.probing.out, w.wanted, n), compute == KD_F32 ? 1e-12 : 1e-5);
    free(w.probing.out);
    free(w.wanted);
    kd_probe_destroy(w.probing.probe);
    tap_run_finish(&run);
}

Test(probe, of_the_routers_own_choice_is_what_the_experts_write)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        if (kd_model_type_at(t)->has_experts) {
            expect_what_experts_write(kd_model_type_at(t), KD_F32, KD_PARAMS_INFER);
            expect_what_experts_write(kd_model_type_at(t), KD_BF16, KD_PARAMS_INFER);
        }
    }
}

static void only_look(void *user, const kd_tap *tap)
{
    probing *p = user;
    if (tap->layer == p->layer) {
        kd_experts_probe_forward(p->probe, p->layer, p->rows, p->experts, p->n_rows);
    }
}

/* A second probe in the same layer adds what it alone would. */
static void twice(void *user, const kd_tap *tap)
{
    probing *both = user;
    probing_at(&both[0], tap);
    probing_at(&both[1], tap);
}

static float *gradients(void (*at)(void *user, const kd_tap *tap), int n_probes)
{
    tap_run run = tap_run_start(&kd_model_qwen3_moe, KD_F32, KD_PARAMS_TRAIN, true);
    probing p[2] = {{.run = &run, .layer = 1}, {.run = &run, .layer = 1}};

    for (int i = 0; i < 2; i++) {
        probing_ask(&p[i], probing_all, PROBING_ROWS, PROBING_EXPERTS);
    }
    tap_run_listen(&run, n_probes > 0 ? KD_TAP_BIT(KD_TAP_ROUTER) : 0, NULL, p, at);
    tap_run_forward_backward(&run);
    float *grad = tiny_values(run.model.be, run.model.params->grad);
    for (int i = 0; i < 2; i++) {
        kd_probe_destroy(p[i].probe);
    }
    tap_run_finish(&run);
    return grad;
}

Test(probe, that_only_looks_changes_no_bit_and_two_add_up)
{
    const kd_model_config config = tiny_config(&kd_model_qwen3_moe);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    const size_t n = (size_t)model.params->n_elements;
    float *none = gradients(only_look, 0), *looked = gradients(only_look, 1);
    float *one = gradients(probing_at, 1), *two = gradients(twice, 1);

    cr_expect_arr_eq(looked, none, n * sizeof *none);
    for (size_t i = 0; i < n; i++) {
        one[i] *= 2.0f; /* the loss is all there is, so twice the loss is twice the gradient */
    }
    cr_expect_lt(tiny_nmse(two, one, (int64_t)n), 1e-12);
    cr_expect_gt(tiny_nmse(two, none, (int64_t)n), 0.5);
    free(none);
    free(looked);
    free(one);
    free(two);
    tiny_model_destroy(&model);
}
