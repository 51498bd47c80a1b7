/*
 * router.c - chooses, and then sorts by counting: first where each expert's segment begins, then where
 * each row goes, in the order of tokens. The order is the same for any number of threads, and nothing
 * reads back how many rows an expert got.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

typedef struct route_args {
    const kd_route *route;
    kd_tensor logits, d_logits;
    const float *d_weights;
    int64_t n_experts, k;
} route_args;

/* Softmax of a row; returns the log of the sum of exponentials. */
KD_INLINE float softmax_row(float *probs, const float *logits, int64_t n)
{
    float max = logits[0], sum = 0.0f;
    for (int64_t e = 1; e < n; e++) {
        max = logits[e] > max ? logits[e] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t e = 0; e < n; e++) {
        const float p = kd_exp(logits[e] - max);
        probs[e] = p;
        sum += p;
    }
    const float scale = 1.0f / sum;
    for (int64_t e = 0; e < n; e++) {
        probs[e] *= scale;
    }
    return max + logf(sum);
}

/*
 * K times the largest that is left: K and E are small. Not even NaNs make it pick one twice or
 * none, because what comes first is the first that is left.
 */
static void pick(int32_t *experts, float *weights, const float *probs, int64_t n, int64_t k)
{
    bool taken[KD_EXPERTS_MAX] = {false};
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t e = 0; e < n; e++) {
            if (!taken[e] && (best < 0 || probs[e] > probs[best])) {
                best = e;
            }
        }
        taken[best] = true;
        experts[j] = (int32_t)best;
        weights[j] = probs[best];
    }
}

static void renormalise_row(float *weights, int64_t k)
{
    float sum = 0.0f;
    for (int64_t j = 0; j < k; j++) {
        sum += weights[j];
    }
    for (int64_t j = 0; j < k; j++) {
        weights[j] /= sum;
    }
}

static void route_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const route_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        float *probs = kd_row(a->route->probs, row), *weights = kd_row(a->route->weights, row);
        (void)softmax_row(probs, kd_row(a->logits, row), a->n_experts);
        pick(kd_row(a->route->experts, row), weights, probs, a->n_experts, a->k);
        if (a->route->renormalise) {
            renormalise_row(weights, a->k);
        }
    }
}

static void count_experts(int32_t *count, const int32_t *experts, int64_t n, int64_t n_experts)
{
    memset(count, 0, (size_t)n_experts * sizeof *count);
    for (int64_t i = 0; i < n; i++) {
        count[experts[i]]++;
    }
}

/* Segments in the order of experts, within one in the order of tokens. */
static void
place_tokens(const kd_route *route, int64_t n_rows, int64_t n_experts, int64_t k, int32_t tile)
{
    int32_t next[KD_EXPERTS_MAX];
    const int32_t *experts = route->experts.data;
    int32_t *offset = route->offset.data, *position = route->position.data;
    int32_t *token = route->token.data;
    count_experts(next, experts, n_rows * k, n_experts);
    offset[0] = 0;
    for (int64_t e = 0; e < n_experts; e++) {
        const int32_t rounded = (next[e] + tile - 1) / tile * tile;
        offset[e + 1] = offset[e] + rounded;
        next[e] = offset[e];
    }
    for (int64_t row = 0; row < kd_tensor_elements(route->token); row++) {
        token[row] = -1;
    }
    for (int64_t i = 0; i < n_rows * k; i++) {
        const int32_t row = next[experts[i]]++;
        position[i] = row;
        token[row] = (int32_t)(i / k);
    }
}

void KD_KERNEL(route)(kd_backend *be, const kd_route *route, kd_tensor logits)
{
    const int64_t n = kd_tensor_rows(logits), n_experts = kd_tensor_columns(logits);
    const int64_t k = kd_tensor_columns(route->experts);
    kd_check_route(be, route, logits);
    if (!be->fault) {
        const route_args a = {.route = route, .logits = logits, .n_experts = n_experts, .k = k};
        (void)kd_parallel_rows(be, n, kd_grain(8 * n_experts), route_rows, &a);
        if (!kd_cpu_is_idle(be)) {
            place_tokens(route, n, n_experts, k, (int32_t)be->expert_tile);
        }
    }
}

/* Gradient by the chosen probabilities, added into the gradient by all of them. */
static void add_weight_gradient(float *d_probs, const route_args *a, int64_t row)
{
    const int32_t *experts = kd_row(a->route->experts, row);
    const float *probs = kd_row(a->route->probs, row), *dw = a->d_weights + row * a->k;
    float chosen = 1.0f, mean = 0.0f;
    if (a->route->renormalise) {
        const float *weights = kd_row(a->route->weights, row);
        chosen = 0.0f;
        for (int64_t j = 0; j < a->k; j++) {
            chosen += probs[experts[j]];
            mean += dw[j] * weights[j];
        }
    }
    for (int64_t j = 0; j < a->k; j++) {
        d_probs[experts[j]] += (dw[j] - mean) / chosen;
    }
}

static void route_backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const route_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const float *probs = kd_row(a->route->probs, row);
        float *d = kd_row(a->d_logits, row); /* by probabilities first, then by logits */
        memset(d, 0, (size_t)a->n_experts * sizeof *d);
        add_weight_gradient(d, a, row);
        float dot = 0.0f;
        for (int64_t e = 0; e < a->n_experts; e++) {
            dot += d[e] * probs[e];
        }
        for (int64_t e = 0; e < a->n_experts; e++) {
            d[e] = probs[e] * (d[e] - dot);
        }
    }
}

void KD_KERNEL(route_backward)(kd_backend *be,
                               kd_tensor d_logits,
                               kd_tensor d_weights,
                               kd_tensor logits,
                               const kd_route *route)
{
    const int64_t n = kd_tensor_rows(logits), n_experts = kd_tensor_columns(logits);
    const int64_t k = kd_tensor_columns(route->experts);
    kd_check_route_backward(be, d_logits, d_weights, logits, route);
    if (!be->fault) {
        const route_args a = {.route = route,
                              .d_logits = d_logits,
                              .d_weights = d_weights.data,
                              .n_experts = n_experts,
                              .k = k};
        (void)kd_parallel_rows(be, n, kd_grain(8 * n_experts), route_backward_rows, &a);
    }
}
