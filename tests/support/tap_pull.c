#include "tests/support/tap_pull.h"

#include <criterion/criterion.h>

#include <stdlib.h>

#include "base/rng.h"

static bool row_counts(const kd_tap *tap, const int32_t *token, const int32_t *offset, int64_t row)
{
    if (tap->point != KD_TAP_EXPERT_IN && tap->point != KD_TAP_EXPERT_OUT) {
        return true;
    }
    return row < offset[kd_tensor_elements(tap->route->offset) - 1] && token[row] >= 0;
}

/* The loss's gradient at a tap, 0 in rows that do not count; the caller frees. */
static float *directions(kd_backend *be, const kd_tap *tap)
{
    const int64_t n = kd_tensor_elements(tap->value), width = kd_tensor_columns(tap->value);
    const uint64_t key = kd_rng_key(9, "direction");
    int32_t *token = tap->route == NULL ? NULL : tiny_ints(be, tap->route->token);
    int32_t *offset = tap->route == NULL ? NULL : tiny_ints(be, tap->route->offset);
    float *values = calloc((size_t)n, sizeof *values);

    cr_assert_not_null(values);
    for (int64_t i = 0; i < n; i++) {
        if (row_counts(tap, token, offset, i / width)) {
            values[i] = (float)kd_rng_normal(key, (uint64_t)(tap->layer * 100000 + i));
        }
    }
    free(token);
    free(offset);
    return values;
}

void tap_pull_at(void *user, const kd_tap *tap)
{
    tap_pull *p = user;
    kd_backend *be = p->run->model.be;
    const bool backward = tap->gradient.data != NULL;
    float *values = tiny_values(be, backward ? tap->gradient : tap->value);
    float *added = directions(be, tap);

    for (int64_t i = 0; i < kd_tensor_elements(tap->value); i++) {
        const float c = added[i];
        if (backward) {
            values[i] += c;
        } else if (c != 0.0f) {
            p->loss += (double)c * (double)values[i];
        }
    }
    if (backward) {
        tiny_write(be, tap->gradient, values);
    }
    free(added);
    free(values);
}
