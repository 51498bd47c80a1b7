#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/progress.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_model.h"

enum { MAX_BATCH = 3, N_TOKENS = 7, MAX_ROWS = MAX_BATCH * N_TOKENS };

static kd_decoder_settings settings(bool train)
{
    return (kd_decoder_settings){.max_batch = MAX_BATCH, .n_tokens = N_TOKENS, .train = train};
}

/* hidden after a forward pass; the caller frees. */
static float *
hidden_of(tiny_model *model, kd_decoder *decoder, const int32_t *tokens, int64_t n_batch)
{
    tiny_forward(decoder, tokens, n_batch, N_TOKENS);
    const kd_tensor hidden = kd_decoder_hidden(decoder);
    cr_assert_eq(kd_tensor_rows(hidden), n_batch * N_TOKENS);
    return tiny_values(model->be, hidden);
}

/* A gradient of ones for hidden. The memory is the caller's to give back. */
static kd_tensor ones_for(tiny_model *model, int64_t n_rows)
{
    const int64_t width = model->params->config.hidden_size;
    float *ones = malloc((size_t)(n_rows * width) * sizeof *ones);
    void *memory =
        model->be->ops->alloc(model->be, KD_MEMORY_DEVICE, (size_t)(n_rows * width) * sizeof *ones);
    const kd_tensor t = kd_tensor_2d(memory, KD_F32, n_rows, width);

    for (int64_t i = 0; i < n_rows * width; i++) {
        ones[i] = 1.0f;
    }
    model->be->ops->upload(model->be, t, ones);
    cr_assert_eq(kd_backend_wait(model->be), KD_OK);
    free(ones);
    return t;
}

static void destroy(tiny_model *model, kd_decoder *decoder)
{
    cr_expect_eq(kd_backend_wait(model->be), KD_OK);
    kd_decoder_destroy(decoder);
    tiny_model_destroy(model);
}

static size_t bytes_asked_for;

static void *ask(kd_backend *be, kd_memory kind, size_t size_bytes)
{
    (void)be;
    (void)kind;
    bytes_asked_for = size_bytes;
    return NULL;
}

/* Of the activations: all that a decoder allocates. */
static size_t bytes_of(int64_t n_layers, bool train)
{
    kd_model_config config = tiny_config(&kd_model_mixtral);
    config.n_layers = n_layers;
    tiny_model model = tiny_model_create(config, KD_F32, train ? KD_PARAMS_TRAIN : KD_PARAMS_INFER);
    const kd_ops *const ops = model.be->ops;
    kd_ops asking = *ops;
    const kd_decoder_settings s = settings(train);
    kd_decoder *decoder = NULL;

    asking.alloc = ask;
    model.be->ops = &asking;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_NOMEM);
    model.be->ops = ops;
    tiny_model_destroy(&model);
    return bytes_asked_for;
}

Test(decoder, only_training_keeps_the_activations_of_every_layer)
{
    cr_expect_eq(bytes_of(7, false), bytes_of(2, false));
    cr_expect_gt(bytes_of(7, true), bytes_of(2, true));
}

Test(decoder, inference_and_training_give_the_same_bits)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        const kd_model_config config = tiny_config(kd_model_type_at(t));
        tiny_model train = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
        tiny_model infer = tiny_model_create(config, KD_F32, KD_PARAMS_INFER);
        kd_decoder *trains = tiny_decoder(&train, settings(true));
        kd_decoder *infers = tiny_decoder(&infer, settings(false));
        int32_t tokens[MAX_ROWS];

        tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 2);
        float *a = hidden_of(&train, trains, tokens, MAX_BATCH);
        float *b = hidden_of(&infer, infers, tokens, MAX_BATCH);
        cr_expect_eq(memcmp(a, b, (size_t)(MAX_ROWS * config.hidden_size) * sizeof *a), 0, "%s",
                     config.type->name);
        free(a);
        free(b);
        destroy(&train, trains);
        destroy(&infer, infers);
    }
}

Test(decoder, a_smaller_batch_is_a_decoder_made_for_it)
{
    const kd_model_config config = tiny_config(&kd_model_qwen2_moe);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_decoder_settings exact = settings(true);
    exact.max_batch = 1;
    kd_decoder *large = tiny_decoder(&model, settings(true)), *small = tiny_decoder(&model, exact);
    int32_t tokens[MAX_ROWS];
    const size_t row_bytes = (size_t)config.hidden_size * sizeof(float);

    tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 3);
    float *first = hidden_of(&model, large, tokens, MAX_BATCH);
    float *one = hidden_of(&model, large, tokens, 1);
    float *wanted = hidden_of(&model, small, tokens, 1);
    float *again = hidden_of(&model, large, tokens, MAX_BATCH);
    cr_expect_eq(memcmp(one, wanted, N_TOKENS * row_bytes), 0);
    cr_expect_eq(memcmp(again, first, MAX_ROWS * row_bytes), 0, "and back to the full batch");
    cr_expect(tiny_nmse(one, first, N_TOKENS * config.hidden_size) < 1e-10, "alone or with others");
    free(first);
    free(one);
    free(wanted);
    free(again);
    kd_decoder_destroy(small);
    destroy(&model, large);
}

Test(decoder, gradients_of_a_smaller_batch_are_those_of_a_decoder_made_for_it)
{
    const kd_model_config config = tiny_config(&kd_model_olmoe);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_decoder_settings exact = settings(true);
    exact.max_batch = 2;
    kd_decoder *large = tiny_decoder(&model, settings(true)), *small = tiny_decoder(&model, exact);
    const kd_tensor ones = ones_for(&model, INT64_C(2) * N_TOKENS), grad = model.params->grad;
    int32_t tokens[MAX_ROWS];

    tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 4);
    tiny_forward(large, tokens, MAX_BATCH, N_TOKENS); /* leaves more rows than the next one has */
    tiny_forward(large, tokens, 2, N_TOKENS);
    kd_decoder_backward(large, ones);
    float *found = tiny_values(model.be, grad);
    model.be->ops->zero(model.be, grad);
    tiny_forward(small, tokens, 2, N_TOKENS);
    kd_decoder_backward(small, ones);
    float *wanted = tiny_values(model.be, grad);
    cr_expect_eq(memcmp(found, wanted, (size_t)kd_tensor_elements(grad) * sizeof *found), 0);
    free(found);
    free(wanted);
    model.be->ops->free(model.be, ones.data);
    kd_decoder_destroy(small);
    destroy(&model, large);
}

Test(decoder, backward_adds_to_the_gradient)
{
    const kd_model_config config = tiny_config(&kd_model_mixtral);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_decoder *decoder = tiny_decoder(&model, settings(true));
    const kd_tensor ones = ones_for(&model, MAX_ROWS), grad = model.params->grad;
    const int64_t n = kd_tensor_elements(grad);
    int32_t tokens[MAX_ROWS];
    float *sums[2];

    tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 5);
    for (int i = 0; i < 2; i++) {
        tiny_forward(decoder, tokens, MAX_BATCH, N_TOKENS);
        kd_decoder_backward(decoder, ones);
        sums[i] = tiny_values(model.be, grad);
    }
    for (int64_t i = 0; i < n; i++) {
        sums[0][i] *= 2.0f;
    }
    cr_expect(tiny_nmse(sums[1], sums[0], n) < 1e-10);
    free(sums[0]);
    free(sums[1]);
    model.be->ops->free(model.be, ones.data);
    destroy(&model, decoder);
}

Test(decoder, later_tokens_do_not_change_earlier_ones)
{
    const kd_model_config config = tiny_config(&kd_model_qwen3_moe);
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_INFER);
    kd_decoder *decoder = tiny_decoder(&model, settings(false));
    const int64_t earlier = (N_TOKENS - 1) * config.hidden_size;
    int32_t tokens[MAX_ROWS];

    tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 6);
    float *before = hidden_of(&model, decoder, tokens, 1);
    tokens[N_TOKENS - 1] = (tokens[N_TOKENS - 1] + 1) % (int32_t)config.vocab_size;
    float *after = hidden_of(&model, decoder, tokens, 1);
    cr_expect(tiny_nmse(after, before, earlier) < 1e-10);
    cr_expect(tiny_nmse(after + earlier, before + earlier, config.hidden_size) > 1e-3);
    free(before);
    free(after);
    destroy(&model, decoder);
}

/* Wide enough that bf16's rounding averages out. */
static kd_model_config wider_config(const kd_model_type *type)
{
    kd_model_config config = tiny_config(type);
    config.hidden_size = 64;
    config.n_heads = 2;
    config.head_dim = 32;
    config.intermediate_size = 96;
    return config;
}

static double bf16_error(const kd_model_type *type, kd_dtype delta)
{
    const kd_model_config config = wider_config(type);
    tiny_model exact = tiny_model_create(config, KD_F32, KD_PARAMS_INFER);
    tiny_model rounded = tiny_model_create(config, KD_BF16, KD_PARAMS_INFER);
    rounded.be->delta = delta;
    kd_decoder *a = tiny_decoder(&exact, settings(false));
    kd_decoder *b = tiny_decoder(&rounded, settings(false));
    int32_t tokens[MAX_ROWS];

    tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 8);
    float *wanted = hidden_of(&exact, a, tokens, MAX_BATCH);
    float *found = hidden_of(&rounded, b, tokens, MAX_BATCH);
    const double error = tiny_nmse(found, wanted, MAX_ROWS * config.hidden_size);
    free(wanted);
    free(found);
    destroy(&exact, a);
    destroy(&rounded, b);
    return error;
}

Test(decoder, bf16_is_close_to_f32)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        const double error = bf16_error(kd_model_type_at(t), KD_F32);
        cr_expect(error < 3e-4, "%s: %.2e", kd_model_type_at(t)->name, error);
        cr_expect(error > 0.0);
    }
}

/* As back ends have it that move bytes slower than they cast. */
Test(decoder, deltas_may_have_the_compute_dtype)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        const double error = bf16_error(kd_model_type_at(t), KD_BF16);
        cr_expect(error < 3e-4, "%s: %.2e", kd_model_type_at(t)->name, error);
        cr_expect_neq(error, bf16_error(kd_model_type_at(t), KD_F32));
    }
}

static double bf16_gradient_error(const kd_model_type *type, kd_dtype delta)
{
    float *grads[2];
    int64_t n = 0;

    for (int i = 0; i < 2; i++) {
        const kd_model_config config = wider_config(type);
        tiny_model model = tiny_model_create(config, i == 0 ? KD_F32 : KD_BF16, KD_PARAMS_TRAIN);
        model.be->delta = i == 0 ? KD_F32 : delta;
        kd_decoder *decoder = tiny_decoder(&model, settings(true));
        const kd_tensor ones = ones_for(&model, MAX_ROWS);
        int32_t tokens[MAX_ROWS];
        tiny_tokens(tokens, MAX_ROWS, config.vocab_size, 8);
        tiny_forward(decoder, tokens, MAX_BATCH, N_TOKENS);
        kd_decoder_backward(decoder, ones);
        grads[i] = tiny_values(model.be, model.params->grad);
        n = kd_tensor_elements(model.params->grad);
        model.be->ops->free(model.be, ones.data);
        destroy(&model, decoder);
    }
    const double error = tiny_nmse(grads[1], grads[0], n);
    free(grads[0]);
    free(grads[1]);
    return error;
}

Test(decoder, bf16_gradients_are_close_to_f32)
{
    for (size_t t = 0; t < kd_model_type_count(); t++) {
        for (kd_dtype delta = KD_F32; delta <= KD_BF16; delta++) {
            const double error = bf16_gradient_error(kd_model_type_at(t), delta);
            cr_expect(error < 3e-4, "%s, deltas in %s: %.2e", kd_model_type_at(t)->name,
                      kd_dtype_name(delta), error);
        }
    }
}

Test(decoder, lm_head_is_the_embedding_where_tied)
{
    kd_model_config config = tiny_config(&kd_model_llama);
    tiny_model tied = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_decoder *decoder = tiny_decoder(&tied, settings(true));
    const kd_weight embedding = kd_parameters_weight(tied.params, KD_PARAM_EMBEDDING, 0);
    cr_expect_eq(kd_decoder_lm_head(decoder).data, embedding.value.data);
    cr_expect_eq(kd_decoder_lm_head_weight(decoder).grad.data, embedding.grad.data);
    destroy(&tied, decoder);

    config.tied_embeddings = false;
    tiny_model untied = tiny_model_create(config, KD_F32, KD_PARAMS_INFER);
    decoder = tiny_decoder(&untied, settings(false));
    cr_expect_eq(kd_decoder_lm_head(decoder).data,
                 kd_parameters_weight(untied.params, KD_PARAM_LM_HEAD, 0).value.data);
    cr_expect_null(kd_decoder_lm_head_weight(decoder).grad.data);
    destroy(&untied, decoder);
}

static void count_call(void *user)
{
    ++*(int *)user;
}

Test(decoder, on_block_is_called_after_each_half_of_a_layer)
{
    int n_calls = 0;
    tiny_model model = tiny_model_create(tiny_config(&kd_model_mixtral), KD_F32, KD_PARAMS_TRAIN);
    kd_decoder_settings s = settings(true);
    s.on_block = count_call;
    s.user = &n_calls;
    kd_decoder *decoder = tiny_decoder(&model, s);
    const kd_tensor ones = ones_for(&model, N_TOKENS);
    const int32_t tokens[N_TOKENS] = {0};

    const uint64_t before = kd_progress_count();
    tiny_forward(decoder, tokens, 1, N_TOKENS);
    cr_expect_eq(n_calls, 4);
    cr_expect_eq(kd_progress_count(), before + 1);
    kd_decoder_backward(decoder, ones);
    cr_expect_eq(n_calls, 8);
    model.be->ops->free(model.be, ones.data);
    destroy(&model, decoder);
}

Test(decoder, bad_settings_leave_the_output_untouched)
{
    tiny_model model = tiny_model_create(tiny_config(&kd_model_mixtral), KD_F32, KD_PARAMS_INFER);
    kd_decoder *decoder = (kd_decoder *)&model;
    kd_decoder_settings s = settings(true);

    kd_fault_quiet(1);
    s.max_batch = 0;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_ARG);
    EXPECT_FAULT("0 sequences of 7 tokens");
    s.max_batch = INT64_C(1) << 40;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_ARG);
    s.max_batch = 1;
    s.n_tokens = 0;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_ARG);
    s.max_batch = 1 << 20; /* rows of segments, K for each token, would not fit their numbers */
    s.n_tokens = 1 << 10;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_ARG);
    EXPECT_FAULT("expected 1 to 536870911 tokens");
    cr_expect_eq((void *)decoder, (void *)&model);
    kd_decoder_destroy(NULL);
    tiny_model_destroy(&model);
}

Test(decoder, sequences_longer_than_the_positions_of_the_model_are_refused)
{
    kd_model_config config = tiny_config(&kd_model_mixtral);
    kd_decoder *decoder = NULL;
    kd_decoder_settings s = settings(false);
    config.max_positions = s.n_tokens;
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_INFER);
    cr_assert_eq(kd_decoder_create(model.params, &s, &decoder), KD_OK);
    kd_decoder_destroy(decoder);
    decoder = NULL;
    kd_fault_quiet(1);
    s.n_tokens++;
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_INVALID);
    EXPECT_FAULT("found sequences of 8 tokens, expected at most 7");
    cr_expect_null(decoder);
    tiny_model_destroy(&model);
}

Test(decoder, no_memory_for_activations_is_reported)
{
    kd_model_config config = tiny_config(&kd_model_llama);
    config.n_layers = 64;
    tiny_model model = tiny_model_create(config, KD_F32, KD_PARAMS_TRAIN);
    kd_decoder_settings s = settings(true);
    kd_decoder *decoder = NULL;

    s.max_batch = 1 << 20;
    s.n_tokens = 1000; /* a billion rows in 64 layers: tens of terabytes */
    kd_fault_quiet(1);
    cr_expect_eq(kd_decoder_create(model.params, &s, &decoder), KD_ERR_NOMEM);
    cr_expect_null(decoder);
    cr_expect(strstr(kd_fault_text(),
                     "activations of 1048576 sequences of 1000 tokens: no memory for ") != NULL,
              "%s", kd_fault_text());
    tiny_model_destroy(&model);
}

/* Two documents of three tokens and one of padding in a sequence, against each by itself. */
static void expect_packed_as_alone(const kd_model_type *type)
{
    static const int32_t segments[N_TOKENS] = {4, 4, 4, 9, 9, 9, -1};
    static const int32_t positions[N_TOKENS] = {0, 1, 2, 0, 1, 2, 0};

    enum { LENGTH = 3 };

    tiny_model model = tiny_model_create(tiny_config(type), KD_F32, KD_PARAMS_INFER);
    kd_decoder *packed = tiny_decoder(&model, settings(false));
    kd_decoder *alone = tiny_decoder(
        &model, (kd_decoder_settings){.max_batch = 2, .n_tokens = LENGTH, .train = false});
    int32_t tokens[N_TOKENS];
    tiny_tokens(tokens, N_TOKENS, model.params->config.vocab_size, 3);
    const kd_batch batch = {.n_batch = 1,
                            .n_tokens = N_TOKENS,
                            .tokens = tokens,
                            .positions = positions,
                            .segments = segments};

    kd_decoder_forward(packed, &batch);
    float *found = tiny_values(model.be, kd_decoder_hidden(packed));
    tiny_forward(alone, tokens, 2, LENGTH);
    float *wanted = tiny_values(model.be, kd_decoder_hidden(alone));
    const int64_t n = INT64_C(2) * LENGTH * model.params->config.hidden_size;
    cr_expect_lt(tiny_nmse(found, wanted, n), 1e-11);

    tiny_forward(packed, tokens, 1, N_TOKENS); /* as one document again */
    float *whole = tiny_values(model.be, kd_decoder_hidden(packed));
    cr_expect_gt(tiny_nmse(whole, wanted, n), 1e-6);
    free(whole);
    free(wanted);
    free(found);
    kd_decoder_destroy(alone);
    destroy(&model, packed);
}

Test(decoder, packed_documents_are_as_those_by_themselves)
{
    expect_packed_as_alone(&kd_model_mixtral);
    expect_packed_as_alone(&kd_model_qwen3_moe);
    expect_packed_as_alone(&kd_model_llama);
}
