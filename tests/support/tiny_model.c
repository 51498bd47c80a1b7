#include "tests/support/tiny_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/cpu/vec_math.h"
#include "tests/support/back_end.h"

/* Products keep the size of what goes in, norms are near 1, biases near 0. */
static void fill_entry(kd_parameters *params, const kd_parameter *entry, uint64_t seed)
{
    const uint64_t key = kd_rng_u64(kd_rng_key(seed, "tiny model"), (uint64_t)entry->offset);
    const double mean = entry->n_dims == 1 && entry->role != KD_PARAM_QKV_BIAS ? 1.0 : 0.0;
    const double fan_in = (double)entry->dims[entry->n_dims - 1];
    const double gain =
        entry->role == KD_PARAM_ROUTER || entry->role == KD_PARAM_EMBEDDING ? 1.5 : 1.0;
    const double deviation = entry->n_dims == 1 ? 0.3 : gain / sqrt(fan_in);
    float *values = malloc((size_t)entry->n_elements * sizeof *values);

    KD_CHECK(values != NULL);
    for (int64_t i = 0; i < entry->n_elements; i++) {
        values[i] = (float)(mean + deviation * kd_rng_normal(key, (uint64_t)i));
    }
    kd_parameters_write(params, entry->offset, values, entry->n_elements);
    free(values);
}

tiny_model
tiny_model_on(kd_backend *be, kd_model_config config, kd_parameter_use use, uint64_t seed)
{
    tiny_model m = {.be = be};

    KD_CHECK(kd_parameters_create(m.be, &config, use, &m.params) == KD_OK);
    for (int i = 0; i < m.params->n_table; i++) {
        fill_entry(m.params, &m.params->table[i], seed);
    }
    return m;
}

tiny_model
tiny_model_with_seed(kd_model_config config, kd_dtype compute, kd_parameter_use use, uint64_t seed)
{
    return tiny_model_on(kd_test_backend(compute, 1), config, use, seed);
}

tiny_model tiny_model_create(kd_model_config config, kd_dtype compute, kd_parameter_use use)
{
    return tiny_model_with_seed(config, compute, use, 1);
}

void tiny_model_destroy(tiny_model *model)
{
    kd_parameters_destroy(model->params);
    kd_backend_destroy(model->be);
}

kd_decoder *tiny_decoder(tiny_model *model, kd_decoder_settings settings)
{
    kd_decoder *decoder;
    KD_CHECK(kd_decoder_create(model->params, &settings, &decoder) == KD_OK);
    return decoder;
}

void tiny_forward(kd_decoder *decoder, const int32_t *tokens, int64_t n_batch, int64_t n_tokens)
{
    const kd_batch batch = {.n_batch = n_batch, .n_tokens = n_tokens, .tokens = tokens};
    kd_decoder_forward(decoder, &batch);
}

void tiny_tokens(int32_t *tokens, int64_t n, int64_t n_vocab, uint64_t seed)
{
    const uint64_t key = kd_rng_key(seed, "tiny tokens");
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = (int32_t)(kd_rng_u64(key, (uint64_t)i) % (uint64_t)n_vocab);
    }
}

float *tiny_values(kd_backend *be, kd_tensor t)
{
    const size_t n = (size_t)kd_tensor_elements(t);
    float *values = malloc(n * sizeof *values);
    uint16_t *halves = malloc(n * sizeof *halves);

    KD_CHECK(values != NULL && halves != NULL);
    if (t.dtype == KD_F32) {
        be->ops->download(be, values, t);
    } else {
        KD_CHECK(t.dtype == KD_BF16);
        be->ops->download(be, halves, t);
        for (size_t i = 0; i < n; i++) { /* bf16 is the upper half of an f32 */
            const uint32_t bits = (uint32_t)halves[i] << 16;
            memcpy(&values[i], &bits, sizeof bits);
        }
    }
    free(halves);
    return values;
}

void tiny_write(kd_backend *be, kd_tensor t, const float *values)
{
    const int64_t n = kd_tensor_elements(t);
    void *rounded = malloc(kd_tensor_bytes(t));
    KD_CHECK(rounded != NULL);
    for (int64_t i = 0; i < n; i++) {
        kd_put(rounded, i, t.dtype, values[i]);
    }
    be->ops->upload(be, t, rounded);
    free(rounded);
}

int32_t *tiny_ints(kd_backend *be, kd_tensor t)
{
    int32_t *values = malloc(kd_tensor_bytes(t));
    KD_CHECK(values != NULL && t.dtype == KD_I32);
    be->ops->download(be, values, t);
    return values;
}

double tiny_nmse(const float *found, const float *wanted, int64_t n)
{
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < n; i++) {
        difference +=
            ((double)found[i] - (double)wanted[i]) * ((double)found[i] - (double)wanted[i]);
        size += (double)wanted[i] * (double)wanted[i];
    }
    return size > 0.0 ? difference / size : difference;
}
