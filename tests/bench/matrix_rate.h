/* matrix_rate.h - what the processor makes of matrix products alone: the yardstick of a step. */
#ifndef KD_TESTS_BENCH_MATRIX_RATE_H
#define KD_TESTS_BENCH_MATRIX_RATE_H

#include "tensor/ops.h"

/*
 * GFLOP/s of this rank by products of its compute dtype of 1024 x 512 x 1024, while all ranks of the world
 * are at it; they begin together. A fault ends the program.
 */
double bench_matrix_rate(kd_backend *be);

#endif
