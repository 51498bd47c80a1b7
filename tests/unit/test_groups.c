#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "tests/support/temporary.h"
#include "tests/support/tiny_model.h"
#include "train/checkpoint.h"

TestSuite(groups, .init = temporary_enter, .fini = temporary_leave);

enum { MODEL, ADAPTER, N_GROUPS, STEPS = 3 };

static const double rate = 1e-2;

/* A model and an adapter of a matrix and a vector, on one back end. */
typedef struct pair {
    tiny_model model;
    kd_parameters *adapter;
    kd_group groups[N_GROUPS];
    kd_optimizer *optimizer;
} pair;

static pair make_with(kd_parameter_use model_use, uint64_t seed, double factor, double adapter_clip)
{
    static const kd_parameter entries[] = {
        {.name = "adapter.feature.0.1.weight",
         .role = KD_PARAM_ROLE_COUNT,
         .n_dims = 2,
         .dims = {7, 5, 1}},
        {.name = "adapter.feature.0.1.bias",
         .role = KD_PARAM_ROLE_COUNT,
         .n_dims = 1,
         .dims = {7, 1, 1}},
    };
    static const Kd__Training settings = KD__TRAINING__INIT;
    pair p = {.model =
                  tiny_model_with_seed(tiny_config(&kd_model_qwen2_moe), KD_F32, model_use, seed)};
    cr_assert_eq(kd_parameters_create_table(p.model.be, entries, 2, KD_PARAMS_TRAIN, &p.adapter),
                 KD_OK);
    p.groups[MODEL] = (kd_group){.name = "model",
                                 .params = p.model.params,
                                 .decay = true,
                                 .exported = true,
                                 .rate = 1.0,
                                 .clip_norm = 1.0};
    p.groups[ADAPTER] = (kd_group){
        .name = "adapters", .params = p.adapter, .rate = factor, .clip_norm = adapter_clip};
    cr_assert_eq(kd_optimizer_create(p.groups, N_GROUPS, &settings, &p.optimizer), KD_OK);
    return p;
}

static pair make(kd_parameter_use model_use)
{
    return make_with(model_use, 1, 3.0, 0.5);
}

static void drop(pair *p)
{
    cr_expect_eq(kd_backend_wait(p->model.be), KD_OK);
    kd_optimizer_destroy(p->optimizer);
    kd_parameters_destroy(p->adapter);
    tiny_model_destroy(&p->model);
}

static float *weights_of(const kd_parameters *params)
{
    float *values = malloc((size_t)params->n_elements * sizeof *values);
    kd_parameters_read(params, 0, values, params->n_elements);
    return values;
}

/* A gradient of its own for each step, group and element; none in the gaps of a table. */
static void put_gradient(const kd_parameters *params, uint64_t step)
{
    float *grad = calloc((size_t)params->n_elements, sizeof *grad);
    for (int e = 0; e < params->n_table; e++) {
        for (int64_t i = 0; i < params->table[e].n_elements; i++) {
            grad[params->table[e].offset + i] = (float)sin((double)(i + e) + 0.7 * (double)step);
        }
    }
    params->be->ops->upload(params->be, params->grad, grad);
    free(grad);
}

static void update(pair *p, uint64_t from, uint64_t to)
{
    for (uint64_t step = from; step < to; step++) {
        for (int g = 0; g < N_GROUPS; g++) {
            if (kd_group_trained(&p->groups[g])) {
                put_gradient(p->groups[g].params, step);
            }
        }
        kd_optimizer_measure(p->optimizer);
        kd_optimizer_apply(p->optimizer, rate, kd_tensor_none());
        kd_optimizer_count_update(p->optimizer);
    }
}

static bool same_weights(const kd_parameters *a, const kd_parameters *b)
{
    float *x = weights_of(a), *y = weights_of(b);
    const bool same = memcmp(x, y, (size_t)a->n_elements * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

Test(groups, a_frozen_one_has_no_memory_for_training_and_stays_as_it_is)
{
    pair p = make(KD_PARAMS_INFER), untouched = make(KD_PARAMS_INFER);
    double norms[N_GROUPS];

    cr_expect_null(p.model.params->grad.data);
    cr_expect_null(p.optimizer->moments[MODEL].m.data);
    cr_expect_null(p.optimizer->moments[MODEL].v.data);
    kd_optimizer_clear(p.optimizer);
    update(&p, 0, STEPS);
    p.model.be->ops->download(p.model.be, norms, p.optimizer->norm_sq);
    cr_expect_eq(norms[MODEL], 0.0);
    cr_expect_gt(norms[ADAPTER], 0.0);
    cr_expect(same_weights(p.model.params, untouched.model.params));
    cr_expect_not(same_weights(p.adapter, untouched.adapter));
    drop(&untouched);
    drop(&p);
}

/* The adapter's gradient is far above its clip, and must not count in the model's, nor the other way. */
Test(groups, each_is_clipped_by_its_own_norm)
{
    pair both = make_with(KD_PARAMS_TRAIN, 1, 3.0, 1e-6), alone = make(KD_PARAMS_TRAIN);
    static const Kd__Training settings = KD__TRAINING__INIT;
    kd_optimizer *model_only;

    cr_assert_eq(kd_optimizer_create(alone.groups, 1, &settings, &model_only), KD_OK);
    update(&both, 0, 1);
    put_gradient(alone.model.params, 0);
    kd_optimizer_measure(model_only);
    kd_optimizer_apply(model_only, rate, kd_tensor_none());
    kd_optimizer_count_update(model_only);
    cr_expect(same_weights(both.model.params, alone.model.params));
    /* Adam divides by the clipped gradient's size, so that its moments show the clip. */
    float *m = tiny_values(both.model.be, both.optimizer->moments[ADAPTER].m);
    double norm = 0.0;
    for (int64_t i = 0; i < both.adapter->n_elements; i++) {
        norm += (double)m[i] * (double)m[i];
    }
    cr_expect_float_eq(sqrt(norm), (1.0 - settings.beta1) * 1e-6, 1e-10);
    free(m);
    kd_optimizer_destroy(model_only);
    drop(&alone);
    drop(&both);
}

Test(groups, the_rate_factor_scales_the_update_and_nothing_decays_unless_it_should)
{
    pair slow = make_with(KD_PARAMS_INFER, 1, 1.0, 0.0),
         fast = make_with(KD_PARAMS_INFER, 1, 3.0, 0.0);

    /* From zero a first update is -rate * sign, as large as the rate says. */
    update(&slow, 0, 1);
    update(&fast, 0, 1);
    float *a = weights_of(slow.adapter), *b = weights_of(fast.adapter);
    for (int64_t i = 0; i < slow.adapter->n_elements; i++) {
        cr_expect_float_eq((double)b[i], 3.0 * (double)a[i], 1e-7);
    }
    free(a);
    free(b);

    /* Without a gradient only decay could move a weight. */
    float *ones = malloc((size_t)slow.adapter->n_elements * sizeof *ones);
    for (int64_t i = 0; i < slow.adapter->n_elements; i++) {
        ones[i] = 1.0f;
    }
    drop(&fast);
    fast = make_with(KD_PARAMS_INFER, 1, 3.0, 0.0);
    kd_parameters_write(fast.adapter, 0, ones, fast.adapter->n_elements);
    kd_optimizer_clear(fast.optimizer);
    kd_optimizer_measure(fast.optimizer);
    kd_optimizer_apply(fast.optimizer, rate, kd_tensor_none());
    kd_optimizer_count_update(fast.optimizer);
    float *found = weights_of(fast.adapter);
    cr_expect_arr_eq(found, ones, (size_t)fast.adapter->n_elements * sizeof *ones);
    free(found);
    free(ones);
    drop(&fast);
    drop(&slow);
}

/* Another rank with the same gradients; notes what it was asked for. */
typedef struct twin {
    int64_t n[N_GROUPS]; /* elements of each call, which differ from group to group */
    int n_calls;
    kd_status answer;
} twin;

static kd_status add_twin(void *user, float *values, int64_t n)
{
    twin *t = user;
    cr_assert_lt(t->n_calls, N_GROUPS);
    t->n[t->n_calls++] = n;
    for (int64_t i = 0; i < n; i++) {
        values[i] *= 2.0f;
    }
    return t->answer;
}

static double first_gradient(const kd_parameters *params)
{
    float *grad = tiny_values(params->be, params->grad);
    const double first = (double)grad[1];
    free(grad);
    return first;
}

Test(groups, each_trained_one_is_reduced_by_itself)
{
    pair p = make(KD_PARAMS_TRAIN), frozen = make(KD_PARAMS_INFER);
    twin t = {0};
    kd_reduce reduce = {.user = &t, .n_ranks = 2, .sum_f32 = add_twin};

    put_gradient(p.model.params, 0);
    put_gradient(p.adapter, 0);
    const double model = first_gradient(p.model.params), adapter = first_gradient(p.adapter);
    cr_assert_eq(kd_optimizer_reduce(p.optimizer, &reduce), KD_OK);
    cr_expect_eq(t.n_calls, 2);
    cr_expect_eq(t.n[MODEL], p.model.params->n_elements);
    cr_expect_eq(t.n[ADAPTER], p.adapter->n_elements);
    cr_expect_eq(first_gradient(p.model.params), 2.0 * model);
    cr_expect_eq(first_gradient(p.adapter), 2.0 * adapter);

    t = (twin){0};
    cr_assert_eq(kd_optimizer_reduce(frozen.optimizer, &reduce), KD_OK);
    cr_expect_eq(t.n_calls, 1);
    cr_expect_eq(t.n[0], frozen.adapter->n_elements);
    t = (twin){.answer = KD_ERR_IO};
    cr_expect_eq(kd_optimizer_reduce(p.optimizer, &reduce), KD_ERR_IO);
    cr_expect_eq(t.n_calls, 1);
    reduce.n_ranks = 1;
    cr_assert_eq(kd_optimizer_reduce(p.optimizer, &reduce), KD_OK);
    cr_expect_eq(t.n_calls, 1, "one rank needs no reduction");
    drop(&frozen);
    drop(&p);
}

static void expect_same_moments(const pair *a, const pair *b, int g)
{
    if (!kd_group_trained(&a->groups[g])) {
        return;
    }
    const size_t bytes = (size_t)a->groups[g].params->n_elements * sizeof(float);
    float *x = tiny_values(a->model.be, a->optimizer->moments[g].m);
    float *y = tiny_values(b->model.be, b->optimizer->moments[g].m);
    cr_expect_arr_eq(x, y, bytes);
    free(x);
    free(y);
    x = tiny_values(a->model.be, a->optimizer->moments[g].v);
    y = tiny_values(b->model.be, b->optimizer->moments[g].v);
    cr_expect_arr_eq(x, y, bytes);
    free(x);
    free(y);
}

/* Another seed: whatever is the same afterwards was read. A frozen group is what it was. */
static void expect_resume(kd_parameter_use model_use)
{
    pair whole = make(model_use), first = make(model_use);
    pair second = make_with(model_use, model_use == KD_PARAMS_TRAIN ? 2 : 1, 3.0, 0.5);
    const kd_checkpoint_state state = {.step = 2, .job_hash = 5};
    kd_checkpoint_state loaded;
    char *path;

    update(&whole, 0, STEPS);
    update(&first, 0, 2);
    cr_assert_eq(kd_checkpoint_save(temporary_folder(), first.optimizer, &state, &path), KD_OK);
    cr_assert_eq(kd_checkpoint_load(path, second.optimizer, 5, &loaded), KD_OK);
    update(&second, 2, STEPS);
    for (int g = 0; g < N_GROUPS; g++) {
        cr_expect(same_weights(second.groups[g].params, whole.groups[g].params));
        expect_same_moments(&second, &whole, g);
    }
    free(path);
    drop(&second);
    drop(&first);
    drop(&whole);
}

Test(groups, a_checkpoint_resumes_all_that_is_trained)
{
    expect_resume(KD_PARAMS_TRAIN);
}

Test(groups, a_checkpoint_resumes_beside_a_frozen_one)
{
    expect_resume(KD_PARAMS_INFER);
}

Test(groups, a_checkpoint_holds_no_moments_of_a_frozen_one)
{
    pair p = make(KD_PARAMS_INFER);
    const kd_checkpoint_state state = {.step = 1};
    kd_safetensors *file;

    cr_assert_eq(kd_checkpoint_save(temporary_folder(), p.optimizer, &state, NULL), KD_OK);
    cr_assert_eq(kd_safetensors_open(temporary_path("step-000000000001/train.safetensors"), &file),
                 KD_OK);
    cr_expect_not_null(kd_safetensors_find(file, "master.adapter.feature.0.1.weight"));
    cr_expect_not_null(kd_safetensors_find(file, "v.adapter.feature.0.1.bias"));
    cr_expect_null(kd_safetensors_find(file, "master.qkv.0"));
    cr_expect_null(kd_safetensors_find(file, "m.qkv.0"));
    kd_safetensors_close(file);
    drop(&p);
}
