/*
 * router_loss.c - the losses over a router's logits alone, and their gradients.
 *
 * By the logit of expert e, with p the softmax of the row and s_e = E f_e the slope of balance:
 *   balance:  p_e (s_e - sum_i s_i p_i)        z:  2 lse p_e
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

typedef struct loss_args {
    const kd_router_loss *loss;
    const int32_t *segments; /* (N), or NULL */
    const float *slope;      /* (E): gradient of balance by a probability */
    int64_t n_experts;
} loss_args;

static bool is_real(const loss_args *a, int64_t row)
{
    return a->segments == NULL || a->segments[row] >= 0;
}

static float log_sum_exp(const float *logits, int64_t n)
{
    float max = logits[0], sum = 0.0f;
    for (int64_t e = 1; e < n; e++) {
        max = logits[e] > max ? logits[e] : max;
    }
    for (int64_t e = 0; e < n; e++) {
        sum += expf(logits[e] - max);
    }
    return max + logf(sum);
}

static void add_gradient(const void *args, int lane, int64_t begin, int64_t end)
{
    const loss_args *a = args;
    const kd_router_loss *loss = a->loss;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        const float *probs = kd_row(loss->route->probs, row);
        float *d = kd_row(loss->d_logits, row);
        float dot = 0.0f, z_slope = 0.0f;
        if (!is_real(a, row)) {
            continue;
        }
        for (int64_t e = 0; e < a->n_experts; e++) {
            dot += a->slope[e] * probs[e];
        }
        if (loss->z_scale != 0.0f) {
            z_slope = 2.0f * loss->z_scale * log_sum_exp(kd_row(loss->logits, row), a->n_experts);
        }
        for (int64_t e = 0; e < a->n_experts; e++) {
            d[e] += probs[e] * (a->slope[e] - dot + z_slope);
        }
    }
}

/* How many assignments each expert has; returns the rows that count. */
static int64_t count_assignments(int32_t *count, const loss_args *a, int64_t n, int64_t k)
{
    int64_t n_real = 0;
    memset(count, 0, (size_t)a->n_experts * sizeof *count);
    for (int64_t row = 0; row < n; row++) {
        const int32_t *experts = kd_row(a->loss->route->experts, row);
        for (int64_t j = 0; j < k && is_real(a, row); j++) {
            count[experts[j]]++;
        }
        n_real += is_real(a, row);
    }
    return n_real;
}

/* Sums are in order of rows, whatever the threads: small next to everything else. */
static double balance_of(const loss_args *a, const int32_t *count, int64_t n)
{
    double sum = 0.0;
    for (int64_t row = 0; row < n; row++) {
        const float *probs = kd_row(a->loss->route->probs, row);
        for (int64_t e = 0; e < a->n_experts && is_real(a, row); e++) {
            sum += (double)count[e] * (double)probs[e];
        }
    }
    return sum;
}

static double z_of(const loss_args *a, int64_t n)
{
    double sum = 0.0;
    for (int64_t row = 0; row < n; row++) {
        if (is_real(a, row)) {
            const double lse = (double)log_sum_exp(kd_row(a->loss->logits, row), a->n_experts);
            sum += lse * lse;
        }
    }
    return sum;
}

void KD_KERNEL(router_loss)(kd_backend *be, const kd_router_loss *l)
{
    const int64_t n = kd_tensor_rows(l->logits), n_experts = kd_tensor_columns(l->logits);
    const int64_t k = kd_tensor_columns(l->route->experts);
    int32_t count[KD_EXPERTS_MAX];
    float slope[KD_EXPERTS_MAX];
    kd_check_router_loss(l);
    if (kd_cpu_is_idle(be)) {
        return;
    }
    const loss_args a = {
        .loss = l, .segments = l->segments.data, .slope = slope, .n_experts = n_experts};
    const int64_t n_real = count_assignments(count, &a, n, k);
    if (n_real == 0) {
        return;
    }
    const double share = (double)n_experts / (double)(n_real * k); /* E f_e is this times count_e */
    for (int64_t e = 0; e < n_experts; e++) {
        slope[e] = l->balance_scale * (float)(share * (double)count[e]);
    }
    if (l->balance_sum.data != NULL) {
        *(double *)l->balance_sum.data += share * balance_of(&a, count, n);
    }
    if (l->z_sum.data != NULL) {
        *(double *)l->z_sum.data += z_of(&a, n);
    }
    if (l->d_logits.data != NULL && (l->balance_scale != 0.0f || l->z_scale != 0.0f)) {
        (void)kd_parallel_rows(be, n, kd_grain(8 * n_experts), add_gradient, &a);
    }
}
