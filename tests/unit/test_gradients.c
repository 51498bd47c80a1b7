/*
 * Every parameter's gradient against central differences, in f32.
 *
 *   loss = <direction, hidden> + balance_weight * N * mean of balance + z_weight * N * mean of z
 *
 * over layers; summed in f64 from f32 values of order one. The differences are extrapolated
 * (Richardson), which leaves an error of h^4: at a step of 2^-6 that and rounding, about 1e-6 / h,
 * leave a relative error below 1e-4. Top-k choices must not flip within a step: MODEL_SEED is such a one.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "tests/support/tiny_model.h"

#define STEP              0.015625f
#define BALANCE_WEIGHT    0.3
#define Z_WEIGHT          0.2
#define ELEMENT_TOLERANCE 2e-2 /* relative, of elements above the floor       */
#define ELEMENT_FLOOR     2e-2 /* times the root mean square of all gradients */
#define VECTOR_TOLERANCE  3e-4 /* norm of the difference over the norm        */
#define MODEL_SEED        1

enum { N_BATCH = 2, N_TOKENS = 5, N_ROWS = N_BATCH * N_TOKENS };

typedef struct gradient_run {
    tiny_model model;
    kd_decoder *decoder;
    int32_t tokens[N_ROWS];
    int64_t n_hidden;
    float *direction; /* (N, C), gradient of the loss for hidden */
    kd_tensor d_hidden;
} gradient_run;

static void start(gradient_run *run, kd_model_type type)
{
    const kd_model_config config = tiny_config(type);
    const uint64_t key = kd_rng_key(7, "direction");

    run->model = tiny_model_with_seed(config, KD_F32, KD_PARAMS_TRAIN, MODEL_SEED);
    run->decoder = tiny_decoder(&run->model, (kd_decoder_settings){.max_batch = N_BATCH,
                                                                   .n_tokens = N_TOKENS,
                                                                   .train = true,
                                                                   .balance_weight = BALANCE_WEIGHT,
                                                                   .z_weight = Z_WEIGHT});
    tiny_tokens(run->tokens, N_ROWS, config.vocab_size, 5);
    run->n_hidden = N_ROWS * config.hidden_size;
    run->direction = malloc((size_t)run->n_hidden * sizeof *run->direction);
    for (int64_t i = 0; i < run->n_hidden; i++) {
        run->direction[i] = (float)kd_rng_normal(key, (uint64_t)i);
    }
    kd_backend *be = run->model.be;
    void *memory = be->ops->alloc(be, (size_t)run->n_hidden * sizeof *run->direction);
    run->d_hidden = kd_tensor_2d(memory, KD_F32, N_ROWS, config.hidden_size);
    be->ops->upload(be, run->d_hidden, run->direction);
}

static void finish(gradient_run *run)
{
    cr_expect_eq(kd_backend_wait(run->model.be), KD_OK);
    run->model.be->ops->free(run->model.be, run->d_hidden.data);
    free(run->direction);
    kd_decoder_destroy(run->decoder);
    tiny_model_destroy(&run->model);
}

/* The router's losses are summed by the backward pass, so a value of the loss costs one too. */
static double loss_of(gradient_run *run)
{
    kd_backend *be = run->model.be;
    const double layers = (double)run->model.params->config.n_layers;
    double router[2], loss = 0.0;

    be->ops->zero(be, kd_decoder_router_sums(run->decoder));
    tiny_forward(run->decoder, run->tokens, N_BATCH, N_TOKENS);
    float *hidden = tiny_values(be, kd_decoder_hidden(run->decoder));
    kd_decoder_backward(run->decoder, run->d_hidden);
    be->ops->download(be, router, kd_decoder_router_sums(run->decoder));
    for (int64_t i = 0; i < run->n_hidden; i++) {
        loss += (double)run->direction[i] * (double)hidden[i];
    }
    free(hidden);
    return loss + (BALANCE_WEIGHT * router[0] + Z_WEIGHT * router[1]) / layers;
}

/* (loss(w + h) - loss(w - h)) / 2 h for element i of the flat numbering. */
static double slope(gradient_run *run, int64_t i, float value, float h)
{
    const float up = value + h, down = value - h;

    kd_parameters_write(run->model.params, i, &up, 1);
    const double loss_up = loss_of(run);
    kd_parameters_write(run->model.params, i, &down, 1);
    const double loss_down = loss_of(run);
    kd_parameters_write(run->model.params, i, &value, 1);
    return (loss_up - loss_down) / ((double)up - (double)down);
}

static double numeric_gradient(gradient_run *run, int64_t i)
{
    float value;
    kd_parameters_read(run->model.params, i, &value, 1);
    return (4.0 * slope(run, i, value, STEP / 2) - slope(run, i, value, STEP)) / 3.0;
}

static double root_mean_square(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum / (double)n);
}

/* Compares one entry; adds to the squares of difference and size. */
static void check_entry(gradient_run *run,
                        const kd_parameter *entry,
                        const float *analytic,
                        double floor,
                        double *squares)
{
    for (int64_t i = 0; i < entry->n_elements; i++) {
        const double found = (double)analytic[entry->offset + i];
        const double wanted = numeric_gradient(run, entry->offset + i);
        const double scale = fmax(fabs(wanted), floor);
        cr_expect(fabs(found - wanted) <= ELEMENT_TOLERANCE * scale,
                  "%s of layer %d, element %d: %.6g, by differences %.6g",
                  kd_parameter_role_name(entry->role), (int)entry->layer, (int)i, found, wanted);
        squares[0] += (found - wanted) * (found - wanted);
        squares[1] += wanted * wanted;
    }
}

static void check_type(kd_model_type type)
{
    gradient_run run;
    double squares[2] = {0.0, 0.0};

    start(&run, type);
    const kd_parameters *p = run.model.params;
    run.model.be->ops->zero(run.model.be, p->grad);
    (void)loss_of(&run);
    float *analytic = tiny_values(run.model.be, p->grad);
    const double floor = ELEMENT_FLOOR * root_mean_square(analytic, p->n_elements);
    for (int i = 0; i < p->n_table; i++) {
        if (p->table[i].role != KD_PARAM_LM_HEAD) { /* no part of the decoder; see test_golden.c */
            check_entry(&run, &p->table[i], analytic, floor, squares);
        }
    }
    const double error = sqrt(squares[0] / squares[1]);
    cr_expect(error <= VECTOR_TOLERANCE, "all gradients: relative error %.2e", error);
    free(analytic);
    finish(&run);
}

Test(gradients, llama_agrees_with_differences)
{
    check_type(KD_MODEL_LLAMA);
}

Test(gradients, mixtral_agrees_with_differences)
{
    check_type(KD_MODEL_MIXTRAL);
}

Test(gradients, qwen2_moe_agrees_with_differences)
{
    check_type(KD_MODEL_QWEN2_MOE);
}

Test(gradients, qwen3_moe_agrees_with_differences)
{
    check_type(KD_MODEL_QWEN3_MOE);
}

Test(gradients, olmoe_agrees_with_differences)
{
    check_type(KD_MODEL_OLMOE);
}
