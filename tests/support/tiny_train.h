/*
 * tiny_train.h - a tiny student in training with a tiny teacher beside it, for tests.
 *
 * A fault in any of these ends the program.
 */
#ifndef KD_TESTS_TINY_TRAIN_H
#define KD_TESTS_TINY_TRAIN_H

#include "distill/teacher.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_objective.h"
#include "train/step.h"

enum { TINY_BATCH = 4, TINY_TOKENS = 6, TINY_ROWS = TINY_BATCH * TINY_TOKENS };

/* What a test may say of training; it is not copied. */
typedef struct tiny_settings {
    tiny_objective objective;
    Kd__Training training;
} tiny_settings;

/* kd 0.7, hard 0.3, balance and z 0, T 2, learning rate 1e-2, constant. */
void tiny_settings_init(tiny_settings *settings);

/* The tokens and labels of a batch, some of them -100, from a seed. */
typedef struct tiny_batch {
    int32_t tokens[TINY_ROWS], labels[TINY_ROWS];
} tiny_batch;

typedef struct tiny_train {
    kd_backend *be, *teacher_be;
    kd_trainer *trainer;
    kd_teacher *teacher;
    kd_channel *channel;     /* runs the teacher on the micro-batches below */
    tiny_settings settings;  /* those of a test that gave none */
    tiny_batch batch;        /* of seed 3 ... */
    kd_batch whole;          /* ... in one micro-batch */
    const kd_batch *batches; /* micro-batch m is batches[m - first_m] */
    uint64_t first_m, next_m;
    kd_source source;
    uint64_t n_teacher_blocks; /* that it has run */
} tiny_train;

enum { TINY_STEPS_OPEN = 64 }; /* of the channel: steps that failed stay open */

/* With settings NULL they are those of tiny_settings_init(), in its own `settings`. */
tiny_train *
tiny_train_create(const kd_model_type *type, kd_dtype compute, const tiny_settings *settings);
void tiny_train_destroy(tiny_train *t);

/* The trainer's settings as they stand in `settings`. */
kd_trainer_settings tiny_trainer_settings(const tiny_settings *settings);

/* next() of a kd_source whose user is a tiny_train. */
kd_status tiny_train_next(void *t, uint64_t m, kd_batch *batch_out);

/* Another teacher behind the channel, with the tiny_train as user. */
void tiny_train_connect(tiny_train *t, kd_channel_produce produce);

/* Opens a step of these batches on the channel; they must live as long as it runs. */
kd_step_work
tiny_train_open(tiny_train *t, uint64_t step, const kd_batch *batches, int64_t n_batches);

/* One step of a single rank with the teacher. */
kd_status tiny_train_step(tiny_train *t,
                          uint64_t step,
                          const kd_batch *batches,
                          int64_t n_batches,
                          kd_step_result *result_out);

/* Of the same seed the same batch. */
tiny_batch tiny_batch_create(uint64_t seed);
kd_batch tiny_batch_whole(const tiny_batch *batch);

/* All master weights; the caller frees. */
float *tiny_train_weights(const tiny_train *t);

/* Cuts a batch into n micro-batches of equal size: n of them at cut_out, which point into it. */
void tiny_batch_cut(const tiny_batch *batch, int n, kd_batch *cut_out);

#endif
