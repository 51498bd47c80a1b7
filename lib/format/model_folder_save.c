/*
 * model_folder_save.c - values leave by pieces, under the names that loading asks for. What a file will
 * hold is listed once: its size can be told, and its header written, before there is a value.
 */
#include "format/model_folder.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "format/hf_names.h"
#include "format/safetensors.h"
#include "shape/hf_config.h"

static kd_status save_values(kd_safetensors_writer *writer,
                             const kd_parameters *params,
                             const kd_hf_tensor *tensors,
                             size_t n_tensors)
{
    kd_status st = KD_OK;
    float *buffer = malloc(KD_FOLDER_CHUNK * sizeof *buffer);
    if (buffer == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to save %zu tensors", n_tensors);
    }
    for (size_t i = 0; i < n_tensors && !st; i++) {
        for (int64_t at = 0; at < tensors[i].n_elements && !st; at += KD_FOLDER_CHUNK) {
            const int64_t left = tensors[i].n_elements - at;
            const int64_t n = left < KD_FOLDER_CHUNK ? left : KD_FOLDER_CHUNK;
            kd_parameters_read(params, tensors[i].offset + at, buffer, n);
            st = kd_backend_wait(params->be); /* of one that failed the buffer holds anything */
            if (!st) {
                st = kd_safetensors_write_weights(writer, buffer, n);
            }
        }
    }
    free(buffer);
    return st;
}

/* What the file of the weights holds; the caller frees both. */
static kd_status list_specs(const kd_parameters *params,
                            kd_dtype dtype,
                            kd_hf_tensor **tensors_out,
                            kd_safetensors_spec **specs_out,
                            size_t *n_out)
{
    kd_hf_tensor *tensors;
    size_t n_tensors;
    const kd_status st = kd_hf_tensors_list(params, &tensors, &n_tensors);
    if (st) {
        return st;
    }
    kd_safetensors_spec *specs = calloc(n_tensors, sizeof *specs);
    if (specs == NULL) {
        free(tensors);
        return kd_fail(KD_ERR_NOMEM, "no memory to save %zu tensors", n_tensors);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        specs[i] = (kd_safetensors_spec){
            .name = tensors[i].name,
            .dtype = dtype == KD_BF16 ? KD_SAFETENSORS_BF16 : KD_SAFETENSORS_F32,
            .n_dims = tensors[i].n_dims,
            .dims = {tensors[i].dims[0], tensors[i].dims[1]},
        };
    }
    *tensors_out = tensors;
    *specs_out = specs;
    *n_out = n_tensors;
    return KD_OK;
}

kd_status
kd_model_folder_weights_bytes(const kd_parameters *params, kd_dtype dtype, uint64_t *bytes_out)
{
    kd_hf_tensor *tensors;
    kd_safetensors_spec *specs;
    size_t n_tensors;
    kd_status st = list_specs(params, dtype, &tensors, &specs, &n_tensors);
    if (st) {
        return st;
    }
    st = kd_safetensors_file_bytes(specs, n_tensors, bytes_out);
    free(specs);
    free(tensors);
    return st;
}

static kd_status save_weights(const char *folder, const kd_parameters *params, kd_dtype dtype)
{
    kd_safetensors_writer *writer;
    kd_hf_tensor *tensors;
    kd_safetensors_spec *specs;
    size_t n_tensors;

    kd_status st = list_specs(params, dtype, &tensors, &specs, &n_tensors);
    if (st) {
        return st;
    }
    char *path = kd_path_join(folder, "model.safetensors");
    st = path != NULL ? kd_safetensors_create(path, specs, n_tensors, &writer) : KD_ERR_NOMEM;
    if (st) {
        goto out_free;
    }
    st = save_values(writer, params, tensors, n_tensors);
    if (st) {
        kd_safetensors_abandon(writer);
    } else {
        st = kd_safetensors_commit(writer);
    }

out_free:
    free(path);
    free(specs);
    free(tensors);
    return st;
}

kd_status kd_model_folder_save(const char *folder, const kd_parameters *params, kd_dtype dtype)
{
    KD_CHECK(dtype == KD_F32 || dtype == KD_BF16);
    kd_status st = kd_model_config_check(&params->config);
    if (!st) {
        st = kd_folder_make(folder);
    }
    if (!st) {
        st = save_weights(folder, params, dtype);
    }
    if (st) {
        return st;
    }
    char *path = kd_path_join(folder, "config.json");
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    st = kd_hf_config_write(path, &params->config, dtype == KD_BF16 ? "bfloat16" : "float32",
                            params->source_config);
    free(path);
    return st;
}
