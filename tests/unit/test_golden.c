/* Forward, losses and all gradients against PyTorch in f64: tests/golden/generate.py. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/golden.h"
#include "tests/support/router_pull.h"
#include "tests/support/tiny_model.h"

#define TOLERANCE 1e-5 /* norm of the difference over the norm of what was expected */

enum { N_BATCH = 2, N_TOKENS = 7, N_ROWS = N_BATCH * N_TOKENS };

typedef struct golden_run {
    golden file;
    tiny_model model;
    kd_decoder *decoder;
    router_pull pull;
    void *slab;
    kd_tensor logits;   /* (N, V) f32 */
    kd_tensor teacher;  /* (N, V') f32 */
    kd_tensor labels;   /* (N) i32 */
    kd_tensor d_hidden; /* (N, C) f32 */
    kd_tensor sums;     /* (KD_VOCAB_SUMS) f64 */
} golden_run;

static void expect_near(kd_backend *be, const char *what, kd_tensor found, const golden_record *r)
{
    cr_assert_eq(kd_tensor_elements(found), r->n_elements, "%s", what);
    float *values = tiny_values(be, found);
    const double error = sqrt(tiny_nmse(values, r->data, r->n_elements));
    cr_expect(error <= TOLERANCE, "%s: relative error %.2e", what, error);
    free(values);
}

static void expect_sum(const char *what, double found, double wanted)
{
    cr_expect(fabs(found - wanted) <= TOLERANCE * fabs(wanted), "%s: %.9g, expected %.9g", what,
              found, wanted);
}

static void write_weights(golden_run *run)
{
    const kd_parameters *p = run->model.params;
    for (int i = 0; i < p->n_table; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "weight.%s.%d", kd_parameter_role_name(p->table[i].role),
                       (int)p->table[i].layer);
        const golden_record *r = golden_find(&run->file, name, 'f');
        cr_assert_eq(r->n_elements, p->table[i].n_elements, "%s", name);
        kd_parameters_write(run->model.params, p->table[i].offset, r->data, r->n_elements);
    }
}

static void lay_out(golden_run *run, kd_arena *arena)
{
    const kd_model_config *c = &run->model.params->config;
    const int64_t teacher_vocab = golden_find(&run->file, "teacher", 'f')->dims[1];

    run->logits = kd_tensor_carve_2d(arena, KD_F32, N_ROWS, c->vocab_size);
    run->teacher = kd_tensor_carve_2d(arena, KD_F32, N_ROWS, teacher_vocab);
    run->labels = kd_tensor_carve_1d(arena, KD_I32, N_ROWS);
    run->d_hidden = kd_tensor_carve_2d(arena, KD_F32, N_ROWS, c->hidden_size);
    run->sums = kd_tensor_carve_1d(arena, KD_F64, KD_VOCAB_SUMS);
}

static void start(golden_run *run, const char *name)
{
    char path[512];
    kd_arena arena = {0};

    (void)snprintf(path, sizeof path, "%s/%s.safetensors", KD_TEST_GOLDEN, name);
    run->file = golden_read(path);
    const double *objective = golden_find(&run->file, "objective", 'd')->data;
    run->model = tiny_model_create(golden_config(&run->file), KD_F32, KD_PARAMS_TRAIN);
    write_weights(run);
    run->decoder = tiny_decoder(
        &run->model,
        (kd_decoder_settings){.max_batch = N_BATCH, .n_tokens = N_TOKENS, .train = true});
    kd_backend *be = run->model.be;
    router_pull_start(&run->pull, be, run->decoder, objective[3], objective[4],
                      run->model.params->config.n_layers);
    lay_out(run, &arena);
    run->slab = be->ops->alloc(be, KD_MEMORY_DEVICE, arena.used);
    kd_arena_init(&arena, run->slab, arena.used);
    lay_out(run, &arena);
    be->ops->upload(be, run->teacher, golden_find(&run->file, "teacher", 'f')->data);
    be->ops->upload(be, run->labels, golden_find(&run->file, "labels", 'i')->data);
}

static void finish(golden_run *run)
{
    cr_expect_eq(kd_backend_wait(run->model.be), KD_OK);
    run->model.be->ops->free(run->model.be, run->slab);
    router_pull_finish(&run->pull);
    kd_decoder_destroy(run->decoder);
    tiny_model_destroy(&run->model);
    golden_release(&run->file);
}

/* The factor of kd in the file's losses: its temperature squared. */
static double t2_of(const golden_run *run)
{
    const double temperature = *(const double *)golden_find(&run->file, "objective", 'd')->data;
    return temperature * temperature;
}

static void run_step(golden_run *run)
{
    kd_backend *be = run->model.be;
    const kd_ops *ops = be->ops;
    const double *objective = golden_find(&run->file, "objective", 'd')->data;
    const kd_weight lm_head = kd_decoder_lm_head_weight(run->decoder);

    tiny_forward(run->decoder, golden_find(&run->file, "tokens", 'i')->data, N_BATCH, N_TOKENS);
    ops->linear(be, run->logits, kd_decoder_hidden(run->decoder), kd_decoder_lm_head(run->decoder));
    const kd_vocab_teacher teacher = {.logits = run->teacher, .weight = 1.0};
    ops->vocab_loss(be, &(kd_vocab_loss){.hidden = kd_decoder_hidden(run->decoder),
                                         .lm_head = lm_head.value,
                                         .labels = run->labels,
                                         .sums = run->sums,
                                         .d_hidden = run->d_hidden,
                                         .d_lm_head = lm_head.grad,
                                         .accumulate = kd_weight_adds(lm_head),
                                         .teachers = &teacher,
                                         .n_teachers = 1,
                                         .n_vocab = run->model.params->config.vocab_size,
                                         .temperature = (float)objective[0],
                                         .kd_scale = (float)(objective[1] * t2_of(run)),
                                         .hard_scale = (float)objective[2]});
    kd_decoder_backward(run->decoder, run->d_hidden);
}

static void check_losses(golden_run *run)
{
    kd_backend *be = run->model.be;
    const double *losses = golden_find(&run->file, "losses", 'd')->data;
    const double *router_losses = golden_find(&run->file, "router_losses", 'd')->data;
    double sums[KD_VOCAB_SUMS], router_sums[2];

    be->ops->download(be, sums, run->sums);
    be->ops->download(be, router_sums, run->pull.sums);
    expect_sum("kd", sums[KD_VOCAB_SUM_KD] * t2_of(run), losses[0]);
    expect_sum("hard", sums[KD_VOCAB_SUM_HARD], losses[1]);
    expect_sum("rows", sums[KD_VOCAB_SUM_ROWS], losses[2]);
    expect_sum("balance", router_sums[0], router_losses[0]);
    expect_sum("z", router_sums[1], router_losses[1]);
}

static void check_gradients(golden_run *run)
{
    const kd_parameters *p = run->model.params;
    for (int i = 0; i < p->n_table; i++) {
        char name[64];
        (void)snprintf(name, sizeof name, "grad.%s.%d", kd_parameter_role_name(p->table[i].role),
                       (int)p->table[i].layer);
        expect_near(run->model.be, name, kd_parameters_grad(p, &p->table[i]),
                    golden_find(&run->file, name, 'f'));
    }
}

static void check_case(const char *name)
{
    golden_run run;

    start(&run, name);
    run_step(&run);
    expect_near(run.model.be, "hidden", kd_decoder_hidden(run.decoder),
                golden_find(&run.file, "hidden", 'f'));
    expect_near(run.model.be, "logits", run.logits, golden_find(&run.file, "logits", 'f'));
    check_losses(&run);
    check_gradients(&run);
    finish(&run);
}

Test(golden, llama_agrees_with_pytorch)
{
    check_case("llama");
}

Test(golden, mixtral_agrees_with_pytorch)
{
    check_case("mixtral");
}

Test(golden, qwen2_moe_agrees_with_pytorch)
{
    check_case("qwen2_moe");
}

Test(golden, qwen3_moe_agrees_with_pytorch)
{
    check_case("qwen3_moe");
}

Test(golden, windows_agree_with_pytorch)
{
    check_case("mixtral_sliding");
    check_case("qwen3_moe_sliding");
}

Test(golden, olmoe_agrees_with_pytorch)
{
    check_case("olmoe");
}
