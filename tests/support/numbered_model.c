#include "tests/support/numbered_model.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/model_folder.h"
#include "tests/support/temporary.h"

static kd_backend *be;

void numbered_enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_backend_create_cpu(KD_F32, 1, &be), KD_OK));
}

void numbered_leave(void)
{
    kd_backend_destroy(be);
    temporary_leave();
}

kd_backend *numbered_backend(void)
{
    return be;
}

kd_model_config numbered_config(const kd_model_type *type)
{
    kd_model_config config = {
        .type = type,
        .vocab_size = 11,
        .hidden_size = 8,
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 2,
        .intermediate_size = 5,
        .n_experts = type->has_experts ? 3 : 0,
        .experts_per_token = type->has_experts ? 2 : 0,
        .shared_expert_size = type->has_shared_expert ? 6 : 0,
        .rope_theta = 1e4,
        .norm_eps = 1e-5f,
    };
    kd_model_config_apply_type(&config);
    return config;
}

kd_parameters *numbered_params(kd_model_config config, kd_parameter_use use)
{
    kd_parameters *params;
    cr_assert(eq(int, kd_parameters_create(be, &config, use, &params), KD_OK), "%s",
              kd_fault_text());
    return params;
}

/* Element i has the value i + 1, so that every one is told from every other, and from padding. */
kd_parameters *numbered_create(kd_model_config config)
{
    kd_parameters *params = numbered_params(config, KD_PARAMS_TRAIN);
    for (int e = 0; e < params->n_table; e++) {
        const kd_parameter *entry = &params->table[e];
        for (int64_t i = 0; i < entry->n_elements; i++) {
            const float value = (float)(entry->offset + i + 1);
            kd_parameters_write(params, entry->offset + i, &value, 1);
        }
    }
    return params;
}

void numbered_save(const char *path, kd_model_config config, kd_dtype dtype)
{
    kd_parameters *params = numbered_create(config);
    cr_assert(eq(int, kd_model_folder_save(path, params, dtype), KD_OK), "%s", kd_fault_text());
    kd_parameters_destroy(params);
}

/* Writes the tensors of the numbered example under other names or shapes, as `path`. */
void numbered_rewrite(const char *path, void (*change)(kd_safetensors_spec *specs, size_t *n))
{
    kd_safetensors *file;
    kd_safetensors_writer *writer;
    kd_safetensors_spec specs[64];
    float zeros[256] = {0};

    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    size_t n = kd_safetensors_count(file);
    for (size_t i = 0; i < n; i++) {
        const kd_safetensors_entry *e = kd_safetensors_at(file, i);
        specs[i] = (kd_safetensors_spec){e->name, e->dtype, e->n_dims, {e->dims[0], e->dims[1]}};
    }
    change(specs, &n);
    cr_assert(eq(int, kd_safetensors_create(path, specs, n, &writer), KD_OK));
    for (size_t i = 0; i < n; i++) {
        const int64_t columns = specs[i].n_dims > 1 ? specs[i].dims[1] : 1;
        cr_assert(
            eq(int, kd_safetensors_write_f32(writer, zeros, specs[i].dims[0] * columns), KD_OK));
    }
    cr_assert(eq(int, kd_safetensors_commit(writer), KD_OK));
    kd_safetensors_close(file);
}

kd_status numbered_load(kd_model_config config)
{
    kd_parameters *params = numbered_params(config, KD_PARAMS_INFER);
    const kd_status st = kd_model_folder_load("m", params);
    kd_parameters_destroy(params);
    return st;
}

kd_safetensors_spec *numbered_spec(kd_safetensors_spec *specs, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(specs[i].name, name) == 0) {
            return &specs[i];
        }
    }
    cr_assert(0, "%s", name);
    return NULL;
}
