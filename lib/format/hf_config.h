/*
 * hf_config.h - config.json of Hugging Face to and from the shape of our decoder.
 *
 * Reads what transformers writes, today's form (rope_parameters) and the earlier one (rope_theta and
 * rope_scaling at the top level). A field that transformers may leave out takes the default of its
 * type; all others must be there. Settings that change the result and that the decoder does not
 * have (scaled rotary embeddings, sliding windows, biases elsewhere, dense layers among MoE ones,
 * quantised weights, ...) are refused, not ignored.
 *
 * Errors name the file, the field, what was found and what was expected:
 *   KD_ERR_NOT_FOUND, KD_ERR_IO  the file cannot be read
 *   KD_ERR_PROTO                 it is not JSON, a field is missing or of the wrong type
 *   KD_ERR_INVALID               a value that is not supported
 */
#ifndef KD_FORMAT_HF_CONFIG_H
#define KD_FORMAT_HF_CONFIG_H

#include "shape/config.h"
#include "tensor/tensor.h"

KD_MUST_USE kd_status kd_hf_config_read(const char *path, kd_model_config *config_out);

/*
 * kd_model_config_check(), and what only others ask for: that transformers can load a model of this
 * shape. KD_ERR_INVALID names the field. Ask before training, not after.
 */
KD_MUST_USE kd_status kd_hf_config_check(const kd_model_config *config);

/* `dtype` of the weights beside it: KD_F32 or KD_BF16. The file is replaced in one piece. */
KD_MUST_USE kd_status kd_hf_config_write(const char *path,
                                         const kd_model_config *config,
                                         kd_dtype dtype);

#endif
