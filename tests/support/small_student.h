/*
 * small_student.h - small students of the public C API, for its tests: kd.h and libkd.so, nothing else.
 *
 * A fault in any of these ends the test.
 */
#ifndef KD_TESTS_SMALL_STUDENT_H
#define KD_TESTS_SMALL_STUDENT_H

#include "kd.h"

enum { B = 4, T = 8, V = 256, N = B * T, SYMBOLS = 16 };

#define DATA        "data: {sequence_length: 8}\n"
#define SHAPE       "num_layers: 2, num_heads: 2, intermediate_size: 16, num_experts: 4"
#define MODEL       "student: {model: {hidden_size: 16, " SHAPE "}}\n"
#define TRAINING    "batch_size: 4, steps: 1000, decay: constant, learning_rate: 1e-2"
#define F32         "training: {" TRAINING ", dtype: f32}\n"
#define SMALL(seed) DATA MODEL F32 "seed: " #seed "\n"

kd_student *small_student(const char *job);

/* A text with a rule, so that there is something to learn: each token is the one before plus 3 or 5. */
void small_text(int32_t *tokens, int32_t *labels, int32_t seed);

/* Takes n_steps on such texts; the losses of the last. */
kd_losses small_train(kd_student *student, int n_steps);

/* A model folder that holds something worth teaching: "teacher" in the test's folder, whose path it is. */
const char *small_teacher(void);

#endif
