/*
 * tap_run.h - a tiny model with a listener at its taps, and one micro-batch, for tests.
 *
 * A fault in any of these ends the test.
 */
#ifndef KD_TESTS_TAP_RUN_H
#define KD_TESTS_TAP_RUN_H

#include "tests/support/tiny_model.h"

enum { TAP_BATCH = 2, TAP_TOKENS = 5, TAP_ROWS = TAP_BATCH * TAP_TOKENS };

typedef struct tap_run {
    tiny_model model; /* no choice of experts flips within a step of differences */
    kd_decoder *decoder;
    int32_t tokens[TAP_ROWS];
    kd_tensor d_hidden; /* zeros */
} tap_run;

tap_run
tap_run_start(const kd_model_type *type, kd_dtype compute, kd_parameter_use use, bool train);

/* The same on a back end that the test made; destroyed with it. */
tap_run
tap_run_start_on(kd_backend *be, const kd_model_type *type, kd_parameter_use use, bool train);
void tap_run_finish(tap_run *run);

/* One listener; layers NULL: to all. */
void tap_run_listen(tap_run *run,
                    unsigned points,
                    const bool *layers,
                    void *user,
                    void (*at)(void *user, const kd_tap *tap));

void tap_run_forward(tap_run *run);
void tap_run_forward_backward(tap_run *run);

#endif
