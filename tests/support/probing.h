/*
 * probing.h - a listener that probes experts in one layer, for tests: some rows, experts of the test's choice.
 *
 * A fault in any of these ends the test.
 */
#ifndef KD_TESTS_PROBING_H
#define KD_TESTS_PROBING_H

#include "model/probe.h"
#include "tests/support/tap_run.h"

enum { PROBING_ROWS = 3, PROBING_EXPERTS = 4 };

/* Rows and experts of a probe at one layer, and loss = <direction, out>. */
typedef struct probing {
    tap_run *run;
    kd_probe *probe;
    int64_t layer;
    int32_t rows[PROBING_ROWS], experts[PROBING_ROWS * PROBING_EXPERTS];
    int64_t n_rows, n_experts;
    double loss;
    float *out; /* of the last forward, (n_rows, n_experts, C) */
} probing;

/* All four for each row. */
extern const int32_t probing_all[PROBING_ROWS * PROBING_EXPERTS];

/* Makes the probe, which the test destroys; experts (n_rows, n_experts) are copied. */
void probing_ask(probing *p, const int32_t *experts, int64_t n_rows, int64_t n_experts);

/* For tap_run_listen(), with a probing for user: runs the probe, and backward where there is a gradient. */
void probing_at(void *probing, const kd_tap *tap);

#endif
