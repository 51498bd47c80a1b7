/*
 * hf_config.h - config.json of Hugging Face to and from the shape of our decoder.
 *
 * Reads what transformers writes, today's form (rope_parameters) and the earlier one (rope_theta and
 * rope_scaling at the top level). A field that transformers may leave out takes the default of its
 * type; all others must be there. Settings that change the result and that the decoder does not
 * have (scaled rotary embeddings, sliding windows in some of the layers, biases elsewhere, dense layers
 * among MoE ones, quantised weights, ...) are refused, not ignored.
 *
 * Errors name the file, the field, what was found and what was expected:
 *   KD_ERR_NOT_FOUND, KD_ERR_IO  the file cannot be read
 *   KD_ERR_PROTO                 it is not JSON, a field is missing or of the wrong type
 *   KD_ERR_INVALID               a value that is not supported, or a file of more than
 *                                KD_HF_CONFIG_BYTES_MAX
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_SHAPE_HF_CONFIG_H
#define KD_SHAPE_HF_CONFIG_H

#include "shape/config.h"

#define KD_HF_CONFIG_BYTES_MAX (1 << 20)

KD_MUST_USE kd_status kd_hf_config_read(const char *path, kd_model_config *config_out);

/*
 * Replaces the file in one piece. `dtype` is that of the weights beside it, "float32" or
 * "bfloat16". `source` is the text of the config.json that the model was started from (NULL: none):
 * its fields that no shape has (token ids, router_aux_loss_coef, ...) are written again.
 * KD_ERR_INVALID as kd_model_config_check(), KD_ERR_PROTO if the source is no JSON object.
 */
KD_MUST_USE kd_status kd_hf_config_write(const char *path,
                                         const kd_model_config *config,
                                         const char *dtype,
                                         const char *source);

#endif
