/*
 * tiny_train.h - a tiny student in training with a tiny teacher beside it, for tests.
 *
 * A fault in any of these ends the program.
 */
#ifndef KD_TESTS_TINY_TRAIN_H
#define KD_TESTS_TINY_TRAIN_H

#include "distill/teacher.h"
#include "tests/support/tiny_model.h"
#include "train/step.h"

enum { TINY_BATCH = 4, TINY_TOKENS = 6, TINY_ROWS = TINY_BATCH * TINY_TOKENS };

typedef struct tiny_train {
    kd_backend *be, *teacher_be;
    kd_trainer *trainer;
    kd_teacher *teacher;
    kd_channel *channel; /* runs the teacher on the micro-batches below */
    const kd_micro_batch *batches;
    int64_t n_batches;
} tiny_train;

/* kd 0.7, hard 0.3, balance and z 0, T 2, learning rate 1e-2. */
kd_trainer_settings tiny_train_settings(void);

tiny_train *
tiny_train_create(const kd_model_type *type, kd_dtype compute, const kd_trainer_settings *settings);
void tiny_train_destroy(tiny_train *t);

/* One step of a single rank with the teacher. */
kd_status tiny_train_step(tiny_train *t,
                          uint64_t step,
                          const kd_micro_batch *batches,
                          int64_t n_batches,
                          kd_step_result *result_out);

/* The tokens and labels of a batch, some of them -100, from a seed. */
typedef struct tiny_batch {
    int32_t tokens[TINY_ROWS], labels[TINY_ROWS];
} tiny_batch;

tiny_batch tiny_batch_create(uint64_t seed);
kd_micro_batch tiny_batch_whole(const tiny_batch *batch, uint64_t m);

/* All master weights; the caller frees. */
float *tiny_train_weights(const tiny_train *t);

#endif
