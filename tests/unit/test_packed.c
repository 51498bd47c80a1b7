/* Documents packed into one sequence are to a model what they are apart. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tests/support/router_pull.h"
#include "tests/support/tiny_model.h"

#define Z_WEIGHT 0.2 /* a sum over real rows: the same apart and packed */

enum { FIRST = 4, SECOND = 3, PADDING = 2, ALL = FIRST + SECOND + PADDING };

static const int32_t segments[ALL] = {5, 5, 5, 5, 6, 6, 6, -1, -1};
static const int32_t positions[ALL] = {0, 1, 2, 3, 0, 1, 2, 0, 0};

/* Hidden states of the documents' rows, and the gradient of all parameters. */
typedef struct outcome {
    float *hidden, *grad;
    int64_t n_hidden, n_grad;
    double z; /* summed over real rows and layers */
} outcome;

typedef struct packing {
    tiny_model model;
    int32_t tokens[ALL];
    float *d_hidden; /* (ALL, C); zeros for padding */
} packing;

static packing start(const kd_model_type *type, kd_dtype compute)
{
    packing p = {.model = tiny_model_create(tiny_config(type), compute, KD_PARAMS_TRAIN)};
    const int64_t width = p.model.params->config.hidden_size;

    tiny_tokens(p.tokens, ALL, p.model.params->config.vocab_size, 3);
    p.d_hidden = calloc((size_t)(ALL * width), sizeof *p.d_hidden);
    for (int64_t i = 0; i < (FIRST + SECOND) * width; i++) {
        p.d_hidden[i] = (float)kd_rng_normal(kd_rng_key(1, "packed"), (uint64_t)i);
    }
    return p;
}

static void finish(packing *p)
{
    free(p->d_hidden);
    tiny_model_destroy(&p->model);
}

/* Forward and backward of rows [first, first + n_tokens); adds to the gradient. Returns z. */
static double pass(packing *p, kd_batch batch, int64_t first, float *hidden_out)
{
    kd_backend *be = p->model.be;
    const int64_t width = p->model.params->config.hidden_size;
    kd_decoder *decoder = tiny_decoder(
        &p->model,
        (kd_decoder_settings){.max_batch = 1, .n_tokens = batch.n_tokens, .train = true});
    void *memory =
        be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)(batch.n_tokens * width) * sizeof(float));
    router_pull pull;
    double router[2];
    const kd_tensor d_hidden = kd_tensor_2d(memory, KD_F32, batch.n_tokens, width);

    batch.n_batch = 1;
    batch.tokens = p->tokens + first;
    be->ops->upload(be, d_hidden, p->d_hidden + first * width);
    router_pull_start(&pull, be, decoder, 0.0, Z_WEIGHT, p->model.params->config.n_layers);
    kd_decoder_forward(decoder, &batch);
    float *hidden = tiny_values(be, kd_decoder_hidden(decoder));
    memcpy(hidden_out + first * width, hidden, (size_t)(batch.n_tokens * width) * sizeof *hidden);
    kd_decoder_backward(decoder, d_hidden);
    be->ops->download(be, router, pull.sums);
    cr_expect_eq(kd_backend_wait(be), KD_OK);
    router_pull_finish(&pull);
    free(hidden);
    be->ops->free(be, memory);
    kd_decoder_destroy(decoder);
    return router[1];
}

static outcome outcome_of(packing *p, const kd_batch *batches, int n_batches)
{
    const int64_t width = p->model.params->config.hidden_size;
    outcome o = {.hidden = calloc((size_t)(ALL * width), sizeof(float)),
                 .n_hidden = (FIRST + SECOND) * width,
                 .n_grad = p->model.params->n_elements};
    int64_t first = 0;

    p->model.be->ops->zero(p->model.be, p->model.params->grad);
    for (int i = 0; i < n_batches; i++) {
        o.z += pass(p, batches[i], first, o.hidden);
        first += batches[i].n_tokens;
    }
    o.grad = tiny_values(p->model.be, p->model.params->grad);
    return o;
}

static void expect_near(outcome found, outcome wanted, kd_dtype compute)
{
    const double limit = compute == KD_F32 ? 1e-10 : 1e-3;
    cr_expect_lt(tiny_nmse(found.hidden, wanted.hidden, wanted.n_hidden), limit);
    cr_expect_lt(tiny_nmse(found.grad, wanted.grad, wanted.n_grad), limit);
    cr_expect_leq(fabs(found.z - wanted.z), sqrt(limit) * wanted.z);
    free(found.hidden);
    free(found.grad);
}

static void check(const kd_model_type *type, kd_dtype compute)
{
    packing p = start(type, compute);
    const kd_batch apart[] = {{.n_tokens = FIRST}, {.n_tokens = SECOND}};
    const kd_batch packed = {.n_tokens = ALL, .positions = positions, .segments = segments};
    /* Rotary embedding sees differences of positions alone. */
    const kd_batch shifted = {.n_tokens = ALL, .segments = segments};
    const kd_batch mixed = {.n_tokens = FIRST + SECOND};
    outcome wanted = outcome_of(&p, apart, 2);

    expect_near(outcome_of(&p, &packed, 1), wanted, compute);
    expect_near(outcome_of(&p, &shifted, 1), wanted, compute);
    const outcome other = outcome_of(&p, &mixed, 1);
    cr_expect_gt(tiny_nmse(other.hidden, wanted.hidden, wanted.n_hidden), 1e-3,
                 "without segments documents see each other");
    free(other.hidden);
    free(other.grad);
    free(wanted.hidden);
    free(wanted.grad);
    finish(&p);
}

Test(packed, documents_are_what_they_are_apart)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        check(kd_model_type_at(t), KD_F32);
        check(kd_model_type_at(t), KD_BF16);
    }
}
