/*
 * step - whole passes and steps on the first CUDA device, with what share of its dense product's rate each reaches.
 *
 *     gpu_step [--tiny]
 *
 *   teacher_forward  the forward pass of a mixture-of-experts teacher of 30 billion parameters, 3 of which are active
 *   step_30b_a3b     a step of a student of 1.9 billion that it teaches, both on the device
 *   step_dense_7b    a step of a dense model of 7 billion without a teacher, of 8 micro-batches
 *
 * Each with as many layers of its larger model as fit into the device's memory. Weights and tokens are random. A line
 * of JSON for each as it ends; times are medians of the host's clock around steps that it waits for. --tiny: small
 * models, which show that it runs.
 */
#include "tests/gpu/step.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"

enum { TIMES_MAX = 7 };

static const double enough_s = 12.0; /* of timed steps of a case */

#define MODEL(type_, vocab, c, layers, h, g, d, f, e, k)                                           \
    {                                                                                              \
        .type = &kd_model_##type_, .vocab_size = vocab, .hidden_size = c, .n_layers = layers,      \
        .n_heads = h, .n_kv_heads = g, .head_dim = d, .intermediate_size = f, .n_experts = e,      \
        .experts_per_token = k, .norm_topk = true, .rope_theta = 10000.0, .norm_eps = 1e-6f        \
    }

/* The first two are those of the preset 30b-a3b in tests/bench/peers/kd_peer_gpu.py. */
static kd_model_config models[] = {
    MODEL(qwen3_moe, 151936, 2048, 48, 32, 4, 128, 768, 128, 8),
    MODEL(qwen3_moe, 151936, 1024, 28, 16, 8, 128, 512, 32, 4),
    MODEL(llama, 32000, 4096, 32, 32, 32, 128, 11008, 0, 0),
};
static const step_case cases[] = {
    {"teacher_forward", &models[0], NULL, 4, 4096, 1},
    {"step_30b_a3b", &models[0], &models[1], 2, 4096, 1},
    {"step_dense_7b", NULL, &models[2], 1, 4096, 8},
};
static kd_model_config tiny_models[] = {
    MODEL(qwen3_moe, 520, 64, 2, 4, 2, 16, 32, 8, 2),
    MODEL(qwen3_moe, 520, 32, 2, 2, 1, 16, 32, 4, 2),
    MODEL(llama, 200, 64, 2, 4, 4, 16, 96, 0, 0),
};
static const step_case tiny_cases[] = {
    {"teacher_forward", &tiny_models[0], NULL, 2, 16, 1},
    {"step_30b_a3b", &tiny_models[0], &tiny_models[1], 2, 16, 1},
    {"step_dense_7b", NULL, &tiny_models[2], 1, 32, 2},
};

enum { N_CASES = sizeof cases / sizeof *cases };

static void must(kd_status st, const char *what)
{
    if (st) {
        (void)fprintf(stderr, "step: %s: %s\n", what, kd_fault_text());
        exit(1);
    }
}

/* ---- the ceiling ---- */

static kd_tensor square(kd_backend *be, int64_t side)
{
    void *memory = NULL;
    must(kd_backend_place(be, KD_MEMORY_DEVICE, (size_t)(side * side) * sizeof(uint16_t), &memory,
                          "a product"),
         "the rate of products");
    return kd_tensor_2d(memory, KD_BF16, side, side);
}

/* FLOP/s of (side, side) bf16 products, of which some are queued at a time. */
static double product_rate(int64_t side)
{
    enum { N_QUEUED = 10 };

    kd_backend *be = NULL;
    double start_s = 0.0;
    must(kd_backend_create_cuda(KD_BF16, 0, &be), "the device");
    const kd_tensor x = square(be, side), w = square(be, side), y = square(be, side);
    step_draw(be, x, 1.0f); /* zeros would take less power */
    step_draw(be, w, 1.0f);
    for (int pass = 0; pass < 2; pass++) { /* the first warms up */
        start_s = kd_clock_monotonic_s();
        for (int i = 0; i < N_QUEUED; i++) {
            be->ops->linear(be, y, x, w);
        }
        must(kd_backend_wait(be), "the rate of products");
    }
    const double each_s = (kd_clock_monotonic_s() - start_s) / N_QUEUED;
    be->ops->free(be, y.data);
    be->ops->free(be, w.data);
    be->ops->free(be, x.data);
    kd_backend_destroy(be);
    return 2.0 * (double)side * (double)side * (double)side / each_s;
}

/* ---- a case ---- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median, after one step that is not timed; times_out are those of the last whose parts are known. */
static kd_status take_steps(step_run *run, double *median_s_out, kd_step_times *times_out)
{
    double seconds[TIMES_MAX], sum_s = 0.0;
    int n = 0;
    kd_status st = step_run_once(run, times_out);
    while (!st && n < TIMES_MAX && sum_s < enough_s) {
        kd_step_times times;
        const double start_s = kd_clock_monotonic_s();
        st = step_run_once(run, &times);
        seconds[n] = kd_clock_monotonic_s() - start_s;
        sum_s += seconds[n++];
        *times_out = times;
    }
    if (st) {
        return st;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    *median_s_out = seconds[n / 2];
    return KD_OK;
}

static void print_parts(const kd_step_times *times)
{
    const char *comma = "";
    for (int i = 0; i < KD_STEP_PARTS; i++) {
        if (!isnan(times->seconds[i])) {
            printf("%s\"%s\": %.3f", comma, kd_step_part_name((kd_step_part)i),
                   1e3 * times->seconds[i]);
            comma = ", ";
        }
    }
}

static void print_case(const step_run *run, double seconds, const kd_step_times *times, double rate)
{
    const double flops = step_run_flops(run);
    printf("{\"name\": \"%s\", \"layers\": %d, \"tokens\": %lld, \"ms\": %.3f, \"flops\": %.6g, "
           "\"product_flops_per_s\": %.6g, \"share\": %.4f, \"parts_ms\": {",
           run->what->name, (int)run->n_layers,
           (long long)(run->what->n_batch * run->what->n_tokens * run->what->n_micro),
           1e3 * seconds, flops, rate, flops / seconds / rate);
    print_parts(times);
    printf("}}\n");
    (void)fflush(stdout);
}

/* With all layers, or with fewer where there is no memory for these; false, and a word, if it cannot be run. */
static bool measure(const step_case *what, double rate)
{
    const kd_model_config *larger = what->teacher != NULL ? what->teacher : what->student;
    kd_status st = KD_ERR_NOMEM;
    for (int64_t n = larger->n_layers; st == KD_ERR_NOMEM && n > 0; n = n * 9 / 10) {
        step_run run;
        double seconds = 0.0;
        kd_step_times times;
        st = step_run_begin(&run, what, n);
        if (!st) {
            st = take_steps(&run, &seconds, &times);
        }
        if (!st) {
            print_case(&run, seconds, &times, rate);
        }
        step_run_end(&run);
    }
    if (st) {
        (void)fprintf(stderr, "step: %s: %s\n", what->name, kd_fault_text());
    }
    return st == KD_OK;
}

int main(int argc, char **argv)
{
    const bool is_tiny = argc == 2 && strcmp(argv[1], "--tiny") == 0;
    if (argc > 2 || (argc == 2 && !is_tiny)) {
        (void)fprintf(stderr, "usage: gpu_step [--tiny]\n");
        return 64;
    }
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        kd_model_config_apply_type(&models[i]);
        kd_model_config_apply_type(&tiny_models[i]);
    }
    const double rate = product_rate(is_tiny ? 128 : 8192);
    int n_failed = 0;
    for (int i = 0; i < N_CASES; i++) {
        n_failed += !measure(is_tiny ? &tiny_cases[i] : &cases[i], rate);
    }
    return n_failed > 0;
}
