#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"
#include "shape/count.h"
#include "tests/support/back_end.h"
#include "tests/support/tiny_model.h"

static kd_parameters *create(kd_backend *be, kd_model_config config, kd_parameter_use use)
{
    kd_parameters *p;
    cr_assert_eq(kd_parameters_create(be, &config, use, &p), KD_OK);
    return p;
}

/* The values of one entry; the caller frees. */
static float *entry_values(const kd_parameters *p, kd_parameter_role role, int64_t layer)
{
    const kd_parameter *entry = kd_parameters_find(p, role, layer);
    cr_assert_not_null(entry);
    float *values = malloc((size_t)entry->n_elements * sizeof *values);
    kd_parameters_read(p, entry->offset, values, entry->n_elements);
    return values;
}

static bool same_values(const kd_parameters *a, const kd_parameters *b, kd_parameter_role role)
{
    float *x = entry_values(a, role, 0), *y = entry_values(b, role, 0);
    const int64_t n = kd_parameters_find(a, role, 0)->n_elements;
    const bool same = memcmp(x, y, (size_t)n * sizeof *x) == 0;
    free(x);
    free(y);
    return same;
}

Test(parameters, table_has_every_parameter_once_and_matrices_first)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        kd_parameters *p = create(be, tiny_config(kd_model_type_at(t)), KD_PARAMS_TRAIN);
        int64_t n = 0, end = 0;
        for (int i = 0; i < p->n_table; i++) {
            const kd_parameter *e = &p->table[i];
            cr_expect(e->offset >= end && e->offset % KD_PARAM_ALIGN == 0);
            cr_expect_eq(e->n_dims == 1, e->offset >= p->n_matrix);
            cr_expect_eq(kd_parameters_find(p, e->role, e->layer), e);
            n += e->n_elements;
            end = e->offset + e->n_elements;
        }
        cr_expect(end <= p->n_elements);
        cr_expect_eq(n, kd_model_config_parameters(&p->config), "%s", p->config.type->name);
        kd_parameters_destroy(p);
    }
    kd_backend_destroy(be);
}

Test(parameters, shapes_are_those_of_the_header)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_parameters *p = create(be, tiny_config(&kd_model_qwen2_moe), KD_PARAMS_TRAIN);
    const kd_tensor gate_up = kd_parameters_weight(p, KD_PARAM_GATE_UP, 1).value;
    const kd_tensor bias = kd_parameters_weight(p, KD_PARAM_QKV_BIAS, 0).grad;
    const kd_tensor shared = kd_parameters_weight(p, KD_PARAM_SHARED_DOWN, 0).value;

    cr_expect(gate_up.n_dims == 3 && gate_up.dims[0] == 4 && gate_up.dims[1] == 10 &&
              gate_up.dims[2] == 8);
    cr_expect(bias.n_dims == 1 && bias.dims[0] == 24 && bias.dtype == KD_F32);
    cr_expect(shared.n_dims == 2 && shared.dims[0] == 8 && shared.dims[1] == 3);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, absent_entries_are_none)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_parameters *p = create(be, tiny_config(&kd_model_llama), KD_PARAMS_INFER);

    cr_expect_null(kd_parameters_find(p, KD_PARAM_ROUTER, 0));
    cr_expect_null(kd_parameters_find(p, KD_PARAM_LM_HEAD, 0), "tied");
    cr_expect_null(kd_parameters_find(p, KD_PARAM_QKV, 2), "only two layers");
    cr_expect_null(kd_parameters_weight(p, KD_PARAM_SHARED_GATE, 0).value.data);
    cr_expect_not_null(kd_parameters_weight(p, KD_PARAM_QKV, 1).value.data);
    cr_expect_null(kd_parameters_weight(p, KD_PARAM_QKV, 1).grad.data, "inference");
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, bad_config_and_no_memory_leave_the_output_untouched)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_model_config c = tiny_config(&kd_model_mixtral);
    kd_parameters *p = (kd_parameters *)&c;

    kd_fault_quiet(1);
    c.n_heads = 0;
    cr_expect_eq(kd_parameters_create(be, &c, KD_PARAMS_TRAIN, &p), KD_ERR_INVALID);
    c = tiny_config(&kd_model_mixtral);
    c.n_layers = c.n_experts = 1024; /* allowed, and larger than any machine's address space */
    c.hidden_size = c.intermediate_size = 1 << 18;
    cr_expect_eq(kd_parameters_create(be, &c, KD_PARAMS_TRAIN, &p), KD_ERR_NOMEM);
    cr_expect(strstr(kd_fault_text(), " parameters and their gradients: no memory for ") != NULL,
              "%s", kd_fault_text());
    cr_expect_eq(p, (kd_parameters *)&c);
    kd_backend_destroy(be);
    kd_parameters_destroy(NULL);
}

static void expect_round_trip(kd_dtype compute, kd_parameter_use use, float tolerance)
{
    kd_backend *be = kd_test_backend(compute, 1);
    kd_model_config c = tiny_config(&kd_model_mixtral);
    c.vocab_size = 9001; /* more than one piece of the stage */
    kd_parameters *p = create(be, c, use);
    const int64_t n = p->n_elements;
    float *written = malloc((size_t)n * sizeof *written),
          *found = malloc((size_t)n * sizeof *found);

    for (int64_t i = 0; i < n; i++) {
        written[i] = sinf((float)i);
    }
    kd_parameters_write(p, 0, written, n);
    kd_parameters_write(p, p->n_matrix - 3, written, 7); /* across the border */
    memcpy(written + p->n_matrix - 3, written, 7 * sizeof *written);
    kd_parameters_read(p, 0, found, n);
    for (int64_t i = 0; i < n; i++) {
        const float allowed = i < p->n_matrix ? tolerance : 0.0f;
        cr_assert(fabsf(found[i] - written[i]) <= allowed, "element %d", (int)i);
    }
    kd_parameters_read(p, p->n_matrix - 2, found, 4);
    cr_expect_float_eq(found[1], written[p->n_matrix - 1], tolerance);
    cr_expect_eq(found[2], written[p->n_matrix]);
    free(written);
    free(found);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, values_are_read_as_written)
{
    expect_round_trip(KD_F32, KD_PARAMS_TRAIN, 0.0f);
    expect_round_trip(KD_F32, KD_PARAMS_INFER, 0.0f);
    expect_round_trip(KD_BF16, KD_PARAMS_TRAIN, 0.0f); /* the master weights are f32 */
    expect_round_trip(KD_BF16, KD_PARAMS_INFER, 1.0f / 256);
}

Test(parameters, products_read_what_was_written)
{
    kd_backend *be = kd_test_backend(KD_BF16, 1);
    kd_parameters *p = create(be, tiny_config(&kd_model_mixtral), KD_PARAMS_TRAIN);
    const kd_parameter *qkv = kd_parameters_find(p, KD_PARAM_QKV, 1);
    const float one = 1.0f;

    kd_parameters_write(p, qkv->offset + 1, &one, 1);
    float *values = tiny_values(be, kd_parameters_value(p, qkv));
    cr_expect_eq(values[1], 1.0f);
    free(values);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, start_values_depend_on_seed_role_layer_and_element_alone)
{
    kd_backend *one = kd_test_backend(KD_F32, 1), *two = kd_test_backend(KD_F32, 2);
    kd_model_config tied = tiny_config(&kd_model_qwen3_moe),
                    wider = tiny_config(&kd_model_qwen3_moe);
    tied.tied_embeddings = true;
    wider.intermediate_size = 9;
    kd_parameters *a = create(one, tiny_config(&kd_model_qwen3_moe), KD_PARAMS_TRAIN);
    kd_parameters *b = create(two, tied, KD_PARAMS_INFER);  /* other offsets, threads and use */
    kd_parameters *c = create(one, wider, KD_PARAMS_TRAIN); /* other sizes of other entries   */

    cr_assert_eq(kd_parameters_init(a, 5), KD_OK);
    cr_assert_eq(kd_parameters_init(b, 5), KD_OK);
    cr_assert_eq(kd_parameters_init(c, 5), KD_OK);
    for (int role = 0; role < KD_PARAM_LM_HEAD; role++) {
        if (kd_parameters_find(a, (kd_parameter_role)role, 0) != NULL) {
            cr_expect(same_values(a, b, (kd_parameter_role)role), "%s",
                      kd_parameter_role_name((kd_parameter_role)role));
        }
    }
    cr_expect(same_values(a, c, KD_PARAM_QKV));
    cr_assert_eq(kd_parameters_init(c, 6), KD_OK);
    cr_expect(!same_values(a, c, KD_PARAM_QKV), "another seed");
    cr_expect(!same_values(a, c, KD_PARAM_EMBEDDING), "another seed");
    kd_parameters_destroy(a);
    kd_parameters_destroy(b);
    kd_parameters_destroy(c);
    kd_backend_destroy(one);
    kd_backend_destroy(two);
}

static double deviation(const kd_parameters *p, kd_parameter_role role)
{
    float *values = entry_values(p, role, 1);
    const int64_t n = kd_parameters_find(p, role, 1)->n_elements;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)values[i] * (double)values[i];
    }
    free(values);
    return sqrt(sum / (double)n);
}

/* More than one piece, by threads that do not divide it. */
Test(parameters, start_values_follow_the_formula_on_any_number_of_threads_and_tick)
{
    kd_backend *be = kd_test_backend(KD_F32, 3);
    kd_model_config c = tiny_config(&kd_model_mixtral);
    c.vocab_size = 9001;
    kd_parameters *p = create(be, c, KD_PARAMS_TRAIN);
    const uint64_t before = kd_progress_count();

    cr_assert_eq(kd_parameters_init(p, 5), KD_OK);
    cr_expect(kd_progress_count() > before + (uint64_t)p->n_table, "more than one tick an entry");
    const kd_parameter *entry = kd_parameters_find(p, KD_PARAM_EMBEDDING, 0);
    const uint64_t key = kd_rng_u64(kd_rng_key(5, "embedding"), 0);
    float *values = malloc((size_t)entry->n_elements * sizeof *values);
    kd_parameters_read(p, entry->offset, values, entry->n_elements);
    int64_t n_wrong = 0;
    for (int64_t i = 0; i < entry->n_elements; i++) {
        n_wrong += values[i] != (float)(0.02 * kd_rng_normal(key, (uint64_t)i));
    }
    cr_expect_eq(n_wrong, 0, "%lld of %lld", (long long)n_wrong, (long long)entry->n_elements);
    free(values);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, start_values_have_the_stated_deviations)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_model_config c = tiny_config(&kd_model_qwen2_moe);
    c.intermediate_size = c.hidden_size = 64;
    kd_parameters *p = create(be, c, KD_PARAMS_TRAIN);

    cr_assert_eq(kd_parameters_init(p, 5), KD_OK);
    cr_expect_float_eq(deviation(p, KD_PARAM_GATE_UP), 0.02, 0.001);
    cr_expect_float_eq(deviation(p, KD_PARAM_DOWN), 0.01, 0.0005); /* 0.02 / sqrt(2 * 2) */
    cr_expect_float_eq(deviation(p, KD_PARAM_ATTENTION_OUT), 0.01, 0.001);
    cr_expect_eq(deviation(p, KD_PARAM_MLP_NORM), 1.0);
    cr_expect_eq(deviation(p, KD_PARAM_QKV_BIAS), 0.0);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}

Test(parameters, any_table_of_named_entries_makes_slabs)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const kd_parameter_role none = KD_PARAM_ROLE_COUNT;
    const kd_parameter entries[] = {
        {.name = "adapter.bias", .role = none, .n_dims = 1, .dims = {5, 1, 1}},
        {.name = "adapter.weight", .role = none, .n_dims = 2, .dims = {3, 5, 1}},
    };
    kd_parameters *p;
    float values[5] = {1, 2, 3, 4, 5}, found[5];

    cr_assert_eq(kd_parameters_create_table(be, entries, 2, KD_PARAMS_TRAIN, &p), KD_OK);
    const kd_parameter *weight = &p->table[0], *bias = &p->table[1]; /* matrices come first */
    cr_assert_str_eq(weight->name, "adapter.weight");
    cr_assert_str_eq(bias->name, "adapter.bias");
    cr_expect_eq(bias->offset, p->n_matrix);
    cr_expect_eq(kd_tensor_rows(kd_parameters_value(p, weight)), 3);
    cr_expect_eq(kd_tensor_columns(kd_parameters_grad(p, weight)), 5);
    kd_parameters_write(p, bias->offset, values, 5);
    kd_parameters_read(p, bias->offset, found, 5);
    cr_expect_arr_eq(found, values, sizeof values);
    kd_parameters_destroy(p);
    kd_backend_destroy(be);
}
