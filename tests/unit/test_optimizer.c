#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "tests/support/tiny_model.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"

/* Parameters with gradients, an optimizer, and the weights before the first update. */
typedef struct bench {
    tiny_model model;
    kd_optimizer *optimizer;
    float *before, *grad;
    int64_t n;
} bench;

static bench bench_create(kd_dtype compute, const Kd__Training *settings, double clip_norm)
{
    bench b = {.model =
                   tiny_model_create(tiny_config(&kd_model_qwen2_moe), compute, KD_PARAMS_TRAIN)};
    const kd_parameters *params = b.model.params;
    b.n = params->n_elements;
    b.before = malloc((size_t)b.n * sizeof *b.before);
    b.grad = calloc((size_t)b.n, sizeof *b.grad);
    kd_parameters_read(params, 0, b.before, b.n);
    for (int e = 0; e < params->n_table; e++) { /* gaps between entries get no gradient */
        for (int64_t i = 0; i < params->table[e].n_elements; i++) {
            b.grad[params->table[e].offset + i] = (float)sin((double)(i + e)) * 3.0f;
        }
    }
    b.model.be->ops->upload(b.model.be, params->grad, b.grad);
    const kd_group model = {.name = "model",
                            .params = b.model.params,
                            .decay = true,
                            .exported = true,
                            .rate = 1.0,
                            .clip_norm = clip_norm};
    cr_assert_eq(kd_optimizer_create(&model, 1, settings, &b.optimizer), KD_OK);
    return b;
}

static void bench_destroy(bench *b)
{
    cr_expect_eq(kd_backend_wait(b->model.be), KD_OK);
    kd_optimizer_destroy(b->optimizer);
    kd_optimizer_destroy(NULL);
    tiny_model_destroy(&b->model);
    free(b->before);
    free(b->grad);
}

static double norm_sq(const bench *b)
{
    double sum = 0.0;
    for (int64_t i = 0; i < b->n; i++) {
        sum += (double)b->grad[i] * (double)b->grad[i];
    }
    return sum;
}

/* Two updates by the formula, in doubles. */
static double naive(const Kd__Training *s, double w, double g, double decay, double lr)
{
    double m = 0.0, v = 0.0;
    for (int t = 1; t <= 2; t++) {
        m = s->beta1 * m + (1.0 - s->beta1) * g;
        v = s->beta2 * v + (1.0 - s->beta2) * g * g;
        const double m_hat = m / (1.0 - pow(s->beta1, t)), v_hat = v / (1.0 - pow(s->beta2, t));
        w -= lr * (m_hat / (sqrt(v_hat) + s->epsilon) + decay * w);
    }
    return w;
}

static void expect_naive(const Kd__Training *settings, double clip_norm)
{
    bench b = bench_create(KD_F32, settings, clip_norm);
    const double lr = 1e-2;
    double scale = 1.0;
    const double norm = sqrt(norm_sq(&b));
    if (clip_norm > 0.0 && norm > clip_norm) {
        scale = clip_norm / norm;
    }
    kd_optimizer_measure(b.optimizer);
    kd_optimizer_apply(b.optimizer, lr, kd_tensor_none());
    kd_optimizer_count_update(b.optimizer);
    kd_optimizer_apply(b.optimizer, lr, kd_tensor_none());
    kd_optimizer_count_update(b.optimizer);
    float *after = malloc((size_t)b.n * sizeof *after);
    kd_parameters_read(b.model.params, 0, after, b.n);
    for (int64_t i = 0; i < b.n; i++) {
        const double decay = i < b.model.params->n_matrix ? settings->weight_decay : 0.0;
        const double wanted =
            naive(settings, (double)b.before[i], (double)b.grad[i] * scale, decay, lr);
        cr_assert_float_eq((double)after[i], wanted, 2e-6, "element %lld", (long long)i);
    }
    free(after);
    bench_destroy(&b);
}

Test(optimizer, matrices_decay_and_vectors_do_not)
{
    Kd__Training settings = KD__TRAINING__INIT;
    settings.weight_decay = 0.5;
    expect_naive(&settings, 0.0);
}

Test(optimizer, gradient_is_clipped_by_its_global_norm)
{
    Kd__Training settings = KD__TRAINING__INIT;
    settings.epsilon = 1e-3; /* so that the gradient's size matters */
    expect_naive(&settings, 0.1);
}

Test(optimizer, measure_sums_the_squares_of_the_whole_gradient)
{
    const Kd__Training settings = KD__TRAINING__INIT;
    bench b = bench_create(KD_F32, &settings, 1.0);
    double found;
    kd_optimizer_measure(b.optimizer);
    kd_optimizer_measure(b.optimizer); /* starts anew each time */
    b.model.be->ops->download(b.model.be, &found, b.optimizer->norm_sq);
    cr_expect_float_eq(found, norm_sq(&b), 1e-6 * found);
    bench_destroy(&b);
}

Test(optimizer, products_read_the_new_weights_in_bf16)
{
    const Kd__Training settings = KD__TRAINING__INIT;
    bench b = bench_create(KD_BF16, &settings, 1.0);
    const int64_t n = b.model.params->n_matrix;
    kd_optimizer_measure(b.optimizer);
    kd_optimizer_apply(b.optimizer, 0.5, kd_tensor_none());
    kd_optimizer_count_update(b.optimizer);
    float *found = tiny_values(b.model.be, b.model.params->compute);
    float *master = tiny_values(b.model.be, b.model.params->master);
    kd_parameters_write(b.model.params, 0, master, n); /* casts it anew */
    float *wanted = tiny_values(b.model.be, b.model.params->compute);
    cr_expect_arr_eq(found, wanted, (size_t)n * sizeof *found);
    cr_expect_gt(tiny_nmse(found, b.before, n), 1e-4);
    free(wanted);
    free(master);
    free(found);
    bench_destroy(&b);
}

static Kd__Training rate_of(double peak, uint64_t warmup, uint64_t steps, double final_ratio)
{
    Kd__Training t = KD__TRAINING__INIT;
    t.learning_rate = peak;
    t.warmup_steps = warmup;
    t.steps = steps;
    t.final_learning_rate_ratio = final_ratio;
    return t;
}

Test(learning_rate, warms_up_then_decays_to_its_final_ratio)
{
    Kd__Training rate = rate_of(2.0, 4, 14, 0.1);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 0), 0.5, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 3), 2.0, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 4), 2.0, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 9), 2.0 * 0.55, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 14), 0.2, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 999), 0.2, 1e-12);
    rate.decay = KD__TRAINING__DECAY__LINEAR;
    cr_expect_float_eq(kd_learning_rate_at(&rate, 6), 2.0 * (1.0 - 0.9 * 0.2), 1e-12);
    rate.decay = KD__TRAINING__DECAY__CONSTANT;
    cr_expect_float_eq(kd_learning_rate_at(&rate, 13), 2.0, 1e-12);
}

Test(learning_rate, a_job_that_only_warms_up_is_well_defined)
{
    const Kd__Training rate = rate_of(1.0, 5, 5, 0.5);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 4), 1.0, 1e-12);
    cr_expect_float_eq(kd_learning_rate_at(&rate, 5), 0.5, 1e-12);
}
