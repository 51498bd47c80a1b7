#include <criterion/criterion.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/probe.h"
#include "tests/support/differences.h"
#include "tests/support/tap_run.h"

enum { ROWS_MAX = 3, N_EXPERTS = 4 };

/* Rows and experts of a probe at one layer, and loss = <direction, out>. */
typedef struct probing {
    tap_run *run;
    kd_probe *probe;
    int64_t layer;
    int32_t rows[ROWS_MAX], experts[ROWS_MAX * N_EXPERTS];
    int64_t n_rows, n_experts;
    double loss;
    float *out; /* of the last forward, (n_rows, n_experts, C) */
} probing;

static const int32_t all_experts[] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};

static void ask(probing *p, const int32_t *experts, int64_t n_rows, int64_t n_experts)
{
    static const int32_t rows[ROWS_MAX] = {7, 0, 4};
    p->n_rows = n_rows;
    p->n_experts = n_experts;
    memcpy(p->rows, rows, sizeof rows);
    memcpy(p->experts, experts, (size_t)(n_rows * n_experts) * sizeof *experts);
    cr_assert_eq(kd_probe_create(p->run->decoder, ROWS_MAX, n_experts, &p->probe), KD_OK);
}

static float direction(int64_t i)
{
    return (float)kd_rng_normal(kd_rng_key(4, "probe"), (uint64_t)i);
}

/* One pair after the other: what a row of the probe's tensors has for each column. */
static void each_value(probing *p, bool backward)
{
    kd_backend *be = p->run->model.be;
    const int32_t *position = kd_probe_route(p->probe)->position.data; /* host memory on the CPU */
    const kd_tensor gradient = kd_probe_gradient(p->probe);
    const int64_t width = kd_tensor_columns(kd_probe_out(p->probe));
    float *out = tiny_values(be, kd_probe_out(p->probe));
    float *d_out = calloc((size_t)kd_tensor_elements(kd_probe_out(p->probe)), sizeof *d_out);

    p->loss = 0.0;
    for (int64_t i = 0; i < p->n_rows * p->n_experts * width; i++) {
        const int64_t at = position[i / width] * width + i % width;
        d_out[at] = direction(i);
        p->loss += (double)direction(i) * (double)out[at];
        if (p->out != NULL) {
            p->out[i] = out[at];
        }
    }
    if (backward) {
        be->ops->upload(be, gradient, d_out);
    }
    free(out);
    free(d_out);
}

static void probe_at(void *user, const kd_tap *tap)
{
    probing *p = user;
    const bool backward = tap->gradient.data != NULL;

    if (tap->layer != p->layer) {
        return;
    }
    kd_experts_probe_forward(p->probe, p->layer, p->rows, p->experts, p->n_rows);
    each_value(p, backward);
    if (backward) {
        kd_experts_probe_backward(p->probe);
    }
}

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

    ask(&p, experts, ROWS_MAX, n_experts);
    tap_run_listen(&run, KD_TAP_BIT(point), NULL, &p, probe_at);
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

Test(probe, gradients_of_all_experts_agree_with_differences)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        if (kd_model_type_at(t)->has_experts) {
            check_gradients(kd_model_type_at(t), 0, KD_TAP_ROUTER, all_experts, N_EXPERTS);
            check_gradients(kd_model_type_at(t), 1, KD_TAP_EXPERT_OUT, all_experts, N_EXPERTS);
        }
    }
}

Test(probe, gradients_of_chosen_experts_agree_with_differences)
{
    const int32_t some[] = {3, 0, 3, 1, 0, 3}; /* none for expert 2 */
    check_gradients(&kd_model_qwen2_moe, 1, KD_TAP_EXPERT_IN, some, 2);
    check_gradients(&kd_model_mixtral, 0, KD_TAP_ROUTER, some, 2);
}

/* What the layer's own experts wrote for the rows asked about, weights left out. */
typedef struct written {
    probing probing;
    float *wanted; /* (ROWS_MAX, K, C) */
} written;

static void write_down(void *user, const kd_tap *tap)
{
    written *w = user;
    probing *p = &w->probing;
    const int64_t width = kd_tensor_columns(tap->value), k = p->n_experts;
    const int32_t *position = tap->route->position.data, *experts = tap->route->experts.data;

    if (tap->layer != p->layer) {
        return;
    }
    float *out = tiny_values(p->run->model.be, tap->value);
    for (int64_t i = 0; i < p->n_rows * k; i++) {
        const int64_t pair = p->rows[i / k] * k + i % k;
        p->experts[i] = experts[pair];
        memcpy(w->wanted + i * width, out + position[pair] * width, (size_t)width * sizeof *out);
    }
    free(out);
    probe_at(p, tap);
}

static void
expect_what_experts_write(const kd_model_type *type, kd_dtype compute, kd_parameter_use use)
{
    tap_run run = tap_run_start(type, compute, use, false);
    const int64_t n = ROWS_MAX * 2 * run.model.params->config.hidden_size;
    written w = {.probing = {.run = &run, .layer = 1},
                 .wanted = calloc((size_t)n, sizeof *w.wanted)};

    w.probing.out = calloc((size_t)n, sizeof *w.probing.out);
    ask(&w.probing, all_experts, ROWS_MAX, 2);
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
    probe_at(&both[0], tap);
    probe_at(&both[1], tap);
}

static float *gradients(void (*at)(void *user, const kd_tap *tap), int n_probes)
{
    tap_run run = tap_run_start(&kd_model_qwen3_moe, KD_F32, KD_PARAMS_TRAIN, true);
    probing p[2] = {{.run = &run, .layer = 1}, {.run = &run, .layer = 1}};

    for (int i = 0; i < 2; i++) {
        ask(&p[i], all_experts, ROWS_MAX, N_EXPERTS);
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
    float *one = gradients(probe_at, 1), *two = gradients(twice, 1);

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
