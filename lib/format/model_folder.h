/*
 * model_folder.h - a model as Hugging Face keeps it on disk: config.json beside model.safetensors,
 * or beside model.safetensors.index.json and the shards that it names.
 *
 * Values travel as f32 on the host and are cast by whoever keeps them. Errors name the file and the
 * tensor, with shapes found and expected:
 *   KD_ERR_NOT_FOUND, KD_ERR_IO  a file cannot be read or written
 *   KD_ERR_PROTO                 a file does not parse
 *   KD_ERR_INVALID               a tensor is missing or has another shape or dtype: a checkpoint of
 *                                another architecture
 * All functions block on the disk; load and save also wait for the back end.
 *
 * Threads: that of the back end. Blocks on the disk.
 */
#ifndef KD_FORMAT_MODEL_FOLDER_H
#define KD_FORMAT_MODEL_FOLDER_H

#include "model/parameters.h"

/* Values that are on the host at a time while a folder is read or written: 1 MiB of f32. */
#define KD_FOLDER_CHUNK (1 << 18)

/* The shape in config.json; see hf_config.h for what is refused. */
KD_MUST_USE kd_status kd_model_folder_config(const char *folder, kd_model_config *config_out);

/*
 * Fills all weights and keeps the text of config.json, whose fields that no shape has a later save
 * writes again. A folder that is sealed (manifest.h) is verified first: KD_ERR_INVALID names the file
 * that differs, or one that would be read and is not listed. Tensors that the model has no use for are named in a warning and left alone.
 * After a fault the weights are undefined.
 */
KD_MUST_USE kd_status kd_model_folder_load(const char *folder, kd_parameters *params);

/*
 * What load() would refuse of the files, without a value read but the first of each tensor: for whoever
 * only asks. Of `params` the shape alone matters. A sealed folder is verified as there.
 */
KD_MUST_USE kd_status kd_model_folder_check(const char *folder, const kd_parameters *params);

/*
 * Only the lm_head (the embedding where tied), as (V, C) in that dtype, KD_F32 or KD_BF16. For a
 * rank that gets another model's hidden states. Of a sealed folder the files that it comes from are verified. The caller frees the data with be->ops->free().
 */
KD_MUST_USE kd_status kd_model_folder_load_lm_head(const char *folder,
                                                   kd_backend *be,
                                                   kd_dtype dtype,
                                                   kd_tensor *lm_head_out);

/*
 * Makes the folder if need be and writes model.safetensors (dtype KD_F32 or KD_BF16) and config.json.
 * Each file appears whole or not at all. The same weights give the same bytes. KD_ERR_INVALID names a
 * tensor with a value that is not finite in that dtype; config.json is not written then.
 */
KD_MUST_USE kd_status kd_model_folder_save(const char *folder,
                                           const kd_parameters *params,
                                           kd_dtype dtype);

/* Room for that lm_head, by which it is loaded; the caller frees its data. KD_ERR_NOMEM. */
KD_MUST_USE kd_status kd_model_folder_alloc_lm_head(const kd_model_config *config,
                                                    kd_backend *be,
                                                    kd_dtype dtype,
                                                    kd_tensor *lm_head_out);

/* How large the file of the weights will be that kd_model_folder_save() writes. */
KD_MUST_USE kd_status kd_model_folder_weights_bytes(const kd_parameters *params,
                                                    kd_dtype dtype,
                                                    uint64_t *bytes_out);

#endif
