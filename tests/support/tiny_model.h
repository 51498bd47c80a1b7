/*
 * tiny_model.h - models of a few thousand weights, one of each type, for tests.
 *
 * A fault in any of these ends the program.
 */
#ifndef KD_TESTS_TINY_MODEL_H
#define KD_TESTS_TINY_MODEL_H

#include "model/decoder.h"
#include "tests/support/tiny_config.h"

/* A back end (the one under test) and parameters with values of order one, so that every path matters. */
typedef struct tiny_model {
    kd_backend *be;
    kd_parameters *params;
} tiny_model;

tiny_model tiny_model_create(kd_model_config config, kd_dtype compute, kd_parameter_use use);
tiny_model
tiny_model_with_seed(kd_model_config config, kd_dtype compute, kd_parameter_use use, uint64_t seed);

/* The same on a back end that the test made; destroyed with the model. */
tiny_model
tiny_model_on(kd_backend *be, kd_model_config config, kd_parameter_use use, uint64_t seed);
void tiny_model_destroy(tiny_model *model);

kd_decoder *tiny_decoder(tiny_model *model, kd_decoder_settings settings);

/* A forward pass of a batch that is tokens alone. */
void tiny_forward(kd_decoder *decoder, const int32_t *tokens, int64_t n_batch, int64_t n_tokens);

/* n token ids below n_vocab, from a seed. */
void tiny_tokens(int32_t *tokens, int64_t n, int64_t n_vocab, uint64_t seed);

/* All values of an f32 or bf16 tensor, as f32; the caller frees. */
float *tiny_values(kd_backend *be, kd_tensor t);

/* The other way: rounds to the tensor's dtype. */
void tiny_write(kd_backend *be, kd_tensor t, const float *values);

/* All values of an i32 tensor; the caller frees. */
int32_t *tiny_ints(kd_backend *be, kd_tensor t);

/* Sum of squared differences over sum of squares of `wanted`. */
double tiny_nmse(const float *found, const float *wanted, int64_t n);

#endif
