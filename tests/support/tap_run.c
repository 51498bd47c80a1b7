#include "tests/support/tap_run.h"

#include <criterion/criterion.h>

#include "tests/support/back_end.h"

tap_run
tap_run_start_on(kd_backend *be, const kd_model_type *type, kd_parameter_use use, bool train)
{
    const kd_model_config config = tiny_config(type);
    tap_run run = {.model = tiny_model_on(be, config, use, 1)};

    run.decoder = tiny_decoder(
        &run.model,
        (kd_decoder_settings){.max_batch = TAP_BATCH, .n_tokens = TAP_TOKENS, .train = train});
    tiny_tokens(run.tokens, TAP_ROWS, config.vocab_size, 5);
    void *zeros = be->ops->alloc(be, KD_MEMORY_DEVICE,
                                 (size_t)(TAP_ROWS * config.hidden_size) * sizeof(float));
    run.d_hidden = kd_tensor_2d(zeros, KD_F32, TAP_ROWS, config.hidden_size);
    return run;
}

tap_run tap_run_start(const kd_model_type *type, kd_dtype compute, kd_parameter_use use, bool train)
{
    return tap_run_start_on(kd_test_backend(compute, 1), type, use, train);
}

void tap_run_finish(tap_run *run)
{
    cr_expect_eq(kd_backend_wait(run->model.be), KD_OK);
    run->model.be->ops->free(run->model.be, run->d_hidden.data);
    kd_decoder_destroy(run->decoder);
    tiny_model_destroy(&run->model);
}

void tap_run_listen(tap_run *run,
                    unsigned points,
                    const bool *layers,
                    void *user,
                    void (*at)(void *user, const kd_tap *tap))
{
    const kd_listener listener = {.points = points, .layers = layers, .user = user, .at = at};
    cr_assert_eq(kd_decoder_listen(run->decoder, &listener, 1), KD_OK);
}

void tap_run_forward(tap_run *run)
{
    tiny_forward(run->decoder, run->tokens, TAP_BATCH, TAP_TOKENS);
}

void tap_run_forward_backward(tap_run *run)
{
    tap_run_forward(run);
    kd_decoder_backward(run->decoder, run->d_hidden);
}
