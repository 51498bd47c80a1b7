#include "tests/support/probing.h"

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

const int32_t probing_all[] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};

void probing_ask(probing *p, const int32_t *experts, int64_t n_rows, int64_t n_experts)
{
    static const int32_t rows[PROBING_ROWS] = {7, 0, 4};
    p->n_rows = n_rows;
    p->n_experts = n_experts;
    memcpy(p->rows, rows, sizeof rows);
    memcpy(p->experts, experts, (size_t)(n_rows * n_experts) * sizeof *experts);
    cr_assert_eq(kd_probe_create(p->run->decoder, PROBING_ROWS, n_experts, &p->probe), KD_OK);
}

static float direction(int64_t i)
{
    return (float)kd_rng_normal(kd_rng_key(4, "probe"), (uint64_t)i);
}

/* One pair after the other: what a row of the probe's tensors has for each column. */
static void each_value(probing *p, bool backward)
{
    kd_backend *be = p->run->model.be;
    int32_t *position = tiny_ints(be, kd_probe_route(p->probe)->position);
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
    free(position);
    free(out);
    free(d_out);
}

void probing_at(void *user, const kd_tap *tap)
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
