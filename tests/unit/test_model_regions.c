/* Halves of layers as graphs: the bits of the pass without, whoever listens, and fewer launches. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "base/rng.h"
#include "model/decoder.h"
#include "tensor/cuda/kernels.h"
#include "tests/support/back_end.h"
#include "tests/support/cuda_host/control.h"
#include "tests/support/tap_run.h"

enum { PASSES = 4 };

typedef struct result {
    float *hidden, *grads;
    int64_t n_graphs;
    unsigned long long n_kernels;
} result;

/* What one more pass gives; its gradients only. */
static result pass(tap_run *run)
{
    kd_backend *be = run->model.be;
    const int64_t n_graphs = kd_cuda_runs(be, KD_CUDA_KERNEL_GRAPHS);
    const unsigned long long n_kernels = kd_cuda_host_work_done().n_launches;
    kd_parameters_clear_grad(run->model.params);
    tap_run_forward_backward(run);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    const result r = {.n_graphs = kd_cuda_runs(be, KD_CUDA_KERNEL_GRAPHS) - n_graphs,
                      .n_kernels = kd_cuda_host_work_done().n_launches - n_kernels,
                      .hidden = tiny_values(be, kd_decoder_hidden(run->decoder)),
                      .grads = tiny_values(be, run->model.params->grad)};
    return r;
}

static tap_run start(const kd_model_type *type, kd_dtype compute)
{
    kd_test_use_kernels("fast");
    tap_run run = tap_run_start(type, compute, KD_PARAMS_TRAIN, true);
    kd_test_use_kernels(NULL);
    float *direction = tiny_values(run.model.be, run.d_hidden);
    for (int64_t i = 0; i < kd_tensor_elements(run.d_hidden); i++) {
        direction[i] = (float)kd_rng_normal(kd_rng_key(2, "regions"), (uint64_t)i);
    }
    run.model.be->ops->upload(run.model.be, run.d_hidden, direction);
    free(direction);
    return run;
}

static void expect_same(const tap_run *run, const result *a, const result *b)
{
    cr_expect_arr_eq(a->hidden, b->hidden,
                     (size_t)kd_tensor_elements(run->d_hidden) * sizeof(float));
    cr_expect_arr_eq(a->grads, b->grads,
                     (size_t)kd_tensor_elements(run->model.params->grad) * sizeof(float));
}

static void release(result *r)
{
    free(r->hidden);
    free(r->grads);
}

static void expect_passes(const kd_model_type *type, kd_dtype compute)
{
    tap_run run = start(type, compute);
    const int64_t halves = 4 * run.model.params->config.n_layers; /* both directions */
    result first = pass(&run);
    cr_expect_eq(first.n_graphs, 0);
    for (int i = 1; i < PASSES; i++) {
        result later = pass(&run);
        expect_same(&run, &later, &first);
        cr_expect_eq(later.n_graphs, halves);
        cr_expect_lt((unsigned long long)later.n_graphs, later.n_kernels / 4);
        release(&later);
    }
    release(&first);
    tap_run_finish(&run);
}

Test(model_regions, later_passes_are_graphs_with_the_bits_of_the_first)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        expect_passes(kd_model_type_at(t), KD_F32);
        expect_passes(kd_model_type_at(t), KD_BF16);
    }
}

Test(model_regions, take_what_a_pass_is_given)
{
    const kd_model_type *type = kd_model_type_at(0);
    tap_run run = start(type, KD_F32), fresh = start(type, KD_F32);
    for (int i = 0; i < 2; i++) {
        result r = pass(&run);
        release(&r);
    }
    for (int i = 0; i < TAP_ROWS; i++) {
        run.tokens[i] = fresh.tokens[i] = run.tokens[i] == 0 ? 1 : run.tokens[i] - 1;
    }
    result later = pass(&run), first = pass(&fresh);
    cr_expect_gt(later.n_graphs, 0);
    cr_expect_eq(first.n_graphs, 0);
    expect_same(&run, &later, &first);
    release(&later);
    release(&first);
    tap_run_finish(&fresh);
    tap_run_finish(&run);
}

/* An event of what was offered between graphs, awaited by another queue. */
typedef struct listener_state {
    kd_backend *be, *other;
    void *memory;
    int n_calls;
} listener_state;

static void copy_beside(void *user, const kd_tap *tap)
{
    listener_state *l = user;
    const kd_tensor to = kd_tensor_2d(l->memory, tap->value.dtype, kd_tensor_rows(tap->value),
                                      kd_tensor_columns(tap->value));
    l->other->ops->event_wait(l->other, l->be->ops->event_record(l->be));
    l->other->ops->copy(l->other, to, tap->value);
    l->be->ops->event_wait(l->be, l->other->ops->event_record(l->other));
    l->n_calls++;
}

Test(model_regions, leave_room_for_listeners_with_events_of_their_own)
{
    tap_run run = start(kd_model_type_at(0), KD_F32);
    const int64_t n_layers = run.model.params->config.n_layers;
    listener_state l = {.be = run.model.be, .other = kd_test_backend(KD_F32, 1)};
    l.memory = kd_test_take(1 << 20);
    result alone = pass(&run);
    tap_run_listen(&run, KD_TAP_BIT(KD_TAP_HIDDEN) | KD_TAP_BIT(KD_TAP_KEY), NULL, &l, copy_beside);
    for (int i = 0; i < 3; i++) {
        result r = pass(&run);
        expect_same(&run, &r, &alone);
        cr_expect_eq(r.n_graphs, 2 * n_layers); /* both directions of the halves with experts */
        release(&r);
    }
    cr_expect_eq(l.n_calls, 3 * 2 * 2 * (int)n_layers);
    cr_expect_eq(kd_backend_wait(l.other), KD_OK);
    release(&alone);
    kd_backend_destroy(l.other);
    tap_run_finish(&run);
    kd_test_give_back(l.memory);
}
