/*
 * tap_pull.h - a listener with a loss: <direction, tensor at the tap>, over all taps that it hears; the direction
 * is random, the same for the same layer, and 0 in rows of experts that hold no token.
 *
 * A fault in any of these ends the test.
 */
#ifndef KD_TESTS_TAP_PULL_H
#define KD_TESTS_TAP_PULL_H

#include "tests/support/tap_run.h"

typedef struct tap_pull {
    tap_run *run;
    double loss; /* added to in the forward pass */
} tap_pull;

/* For tap_run_listen(), with a tap_pull for user: adds the loss, or its gradient. */
void tap_pull_at(void *pull, const kd_tap *tap);

#endif
