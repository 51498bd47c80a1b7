/*
 * trainer.h - what the files of the trainer (step.h) share; private to lib/train.
 */
#ifndef KD_TRAIN_TRAINER_H
#define KD_TRAIN_TRAINER_H

#include "train/step.h"

struct kd_trainer {
    kd_parameters *params; /* owned, as are the next five */
    kd_optimizer *optimizer;
    kd_decoder *decoder;
    kd_objective *objective;
    Kd__Objective *message; /* the values in force */
    Kd__Training *training;
    int64_t max_batch, n_tokens;
    kd_tensor labels; /* (max_batch * T) i32 */
    int32_t *real;    /* (max_batch * T), host: 0, or -100 for padding */
    double *sums;     /* (n) of the objective's, host */
    int n_teachers;
    kd_step_clock clock;         /* of the parts of a step; owned */
    void **messages;             /* (n_teachers) of the micro-batch under way; owned */
    kd_channel *const *channels; /* (n_teachers) of the step under way, or NULL */
    bool idles;                  /* the last step made no update, which was told */
    bool has_diverged;           /* a loss or a norm of a step was not finite */
};

#endif
