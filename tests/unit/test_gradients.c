/*
 * Every parameter's gradient against central differences, in f32.
 *
 *   loss = <direction, hidden> + balance_weight * N * mean of balance + z_weight * N * mean of z
 *
 * over layers; summed in f64 from f32 values of order one.
 */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "base/rng.h"
#include "tests/support/differences.h"
#include "tests/support/router_pull.h"
#include "tests/support/tiny_model.h"

#define BALANCE_WEIGHT 0.3
#define Z_WEIGHT       0.2
#define MODEL_SEED     1 /* no choice of experts flips within a step */

enum { N_BATCH = 2, N_TOKENS = 5, N_ROWS = N_BATCH * N_TOKENS };

typedef struct gradient_run {
    tiny_model model;
    kd_decoder *decoder;
    router_pull pull;
    int32_t tokens[N_ROWS];
    int64_t n_hidden;
    float *direction; /* (N, C), gradient of the loss for hidden */
    kd_tensor d_hidden;
} gradient_run;

static void start(gradient_run *run, const kd_model_type *type)
{
    const kd_model_config config = tiny_config(type);
    const uint64_t key = kd_rng_key(7, "direction");

    run->model = tiny_model_with_seed(config, KD_F32, KD_PARAMS_TRAIN, MODEL_SEED);
    run->decoder = tiny_decoder(
        &run->model,
        (kd_decoder_settings){.max_batch = N_BATCH, .n_tokens = N_TOKENS, .train = true});
    router_pull_start(&run->pull, run->model.be, run->decoder, BALANCE_WEIGHT, Z_WEIGHT,
                      config.n_layers);
    tiny_tokens(run->tokens, N_ROWS, config.vocab_size, 5);
    run->n_hidden = N_ROWS * config.hidden_size;
    run->direction = malloc((size_t)run->n_hidden * sizeof *run->direction);
    for (int64_t i = 0; i < run->n_hidden; i++) {
        run->direction[i] = (float)kd_rng_normal(key, (uint64_t)i);
    }
    kd_backend *be = run->model.be;
    void *memory =
        be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)run->n_hidden * sizeof *run->direction);
    run->d_hidden = kd_tensor_2d(memory, KD_F32, N_ROWS, config.hidden_size);
    be->ops->upload(be, run->d_hidden, run->direction);
}

static void finish(gradient_run *run)
{
    cr_expect_eq(kd_backend_wait(run->model.be), KD_OK);
    run->model.be->ops->free(run->model.be, run->d_hidden.data);
    free(run->direction);
    router_pull_finish(&run->pull);
    kd_decoder_destroy(run->decoder);
    tiny_model_destroy(&run->model);
}

/* The router's losses are summed in the backward pass, so a value of the loss costs one too. */
static double loss_of(void *user)
{
    gradient_run *run = user;
    kd_backend *be = run->model.be;
    const double layers = (double)run->model.params->config.n_layers;
    double router[2], loss = 0.0;

    be->ops->zero(be, run->pull.sums);
    tiny_forward(run->decoder, run->tokens, N_BATCH, N_TOKENS);
    float *hidden = tiny_values(be, kd_decoder_hidden(run->decoder));
    kd_decoder_backward(run->decoder, run->d_hidden);
    be->ops->download(be, router, run->pull.sums);
    for (int64_t i = 0; i < run->n_hidden; i++) {
        loss += (double)run->direction[i] * (double)hidden[i];
    }
    free(hidden);
    return loss + (BALANCE_WEIGHT * router[0] + Z_WEIGHT * router[1]) / layers;
}

static void check_type(const kd_model_type *type)
{
    gradient_run run;

    start(&run, type);
    run.model.be->ops->zero(run.model.be, run.model.params->grad);
    (void)loss_of(&run);
    const differences d = {.params = run.model.params,
                           .loss = loss_of,
                           .user = &run,
                           .stride = 1,
                           .skip =
                               KD_PARAM_LM_HEAD}; /* no part of the decoder; see test_golden.c */
    differences_check(&d, type->name);
    finish(&run);
}

Test(gradients, llama_agrees_with_differences)
{
    check_type(&kd_model_llama);
}

Test(gradients, mixtral_agrees_with_differences)
{
    check_type(&kd_model_mixtral);
}

Test(gradients, qwen2_moe_agrees_with_differences)
{
    check_type(&kd_model_qwen2_moe);
}

Test(gradients, qwen3_moe_agrees_with_differences)
{
    check_type(&kd_model_qwen3_moe);
}

Test(gradients, olmoe_agrees_with_differences)
{
    check_type(&kd_model_olmoe);
}
