/*
 * step.h - the trainer: one student rank's model, and what makes one optimizer update of it.
 *
 *   count the rows of each loss, over all micro-batches and student ranks
 *   for each local micro-batch:  receive -> forward -> objective -> backward -> release
 *   sum gradients and losses over the student ranks
 *   clip, AdamW
 *
 * Gradients are means from the start: each loss is divided by its own count as it is formed.
 *
 * Cutting the batch into other micro-batches or over other ranks changes nothing but rounding
 * (`balance` alone is taken per micro-batch).
 *
 * Threads: that of the back end. Nothing allocates inside a step.
 */
#ifndef KD_TRAIN_STEP_H
#define KD_TRAIN_STEP_H

#include "distill/channel.h"
#include "distill/objective.h"
#include "train/evaluate.h"
#include "train/learning_rate.h"
#include "train/optimizer.h"
#include "train/reduce.h"

typedef struct kd_trainer_settings {
    kd_objective_settings objective;
    kd_optimizer_settings optimizer;
    double clip_norm; /* of the model's gradient; 0: no clipping */
    kd_learning_rate learning_rate;
    int64_t max_batch; /* sequences of a micro-batch at most */
    int64_t n_tokens;  /* of each sequence */
} kd_trainer_settings;

typedef struct kd_micro_batch {
    uint64_t m;            /* its global number: the channel's message */
    const int32_t *tokens; /* (n_batch * T), host */
    const int32_t *labels; /* (n_batch * T), host; -100 has no label; NULL: none has  */
    int64_t n_batch;       /* sequences, at most max_batch */
} kd_micro_batch;

/* What this rank does in one step. */
typedef struct kd_step_work {
    uint64_t step; /* counted from 0 */
    const kd_micro_batch *batches;
    int64_t n_batches; /* at least 1, in ascending m */
} kd_step_work;

typedef struct kd_step_result {
    kd_loss_value losses[KD_LOSS_COUNT];
    int n_losses;
    double loss;          /* the weighted sum */
    double gradient_norm; /* of the exported groups' mean gradient, before clipping */
    double learning_rate;
    double accuracy;   /* share of labelled rows whose largest logit is the label; 0 without */
    uint64_t n_tokens; /* labelled rows of the global batch; all of them without labels */
    bool updated;      /* false: no loss had a weight and rows; the weights stay as they were */
    double stall_s;    /* that this rank waited for signals */
} kd_step_result;

typedef struct kd_trainer kd_trainer;

/* Owns params (for training, filled) from then on, also when it fails. */
KD_MUST_USE kd_status kd_trainer_create(kd_parameters *params,
                                        const kd_trainer_settings *settings,
                                        const kd_teacher_view *teacher,
                                        kd_trainer **trainer_out);
void kd_trainer_destroy(kd_trainer *trainer);

/* Replaces objective and teacher between two steps; weights and moments stay, on a fault all. */
KD_MUST_USE kd_status kd_trainer_set_objective(kd_trainer *trainer,
                                               const kd_objective_settings *objective,
                                               const kd_teacher_view *teacher);

/* The signals that messages of the channel hold. */
const kd_signal_plan *kd_trainer_signals(const kd_trainer *trainer);
kd_parameters *kd_trainer_parameters(const kd_trainer *trainer);
kd_optimizer *kd_trainer_optimizer(const kd_trainer *trainer);

/*
 * One update. channel NULL: losses that need signals are not computed. Every student rank makes the
 * same call; blocks on the channel and on `reduce`.
 *
 * KD_ERR_INVALID names a token or label out of range, or a loss or gradient norm that is not finite,
 * with the step: all ranks see the same, and the same step again would end the same way; other errors are the channel's, the
 * reduction's or the back end's. After an error the weights are those before the step. An error
 * that only this rank sees leaves the others blocked in `reduce`: the caller ends the whole job
 * then.
 */
KD_MUST_USE kd_status kd_trainer_step(kd_trainer *trainer,
                                      const kd_step_work *work,
                                      kd_channel *channel,
                                      const kd_reduce *reduce,
                                      kd_step_result *result_out);

/* kd_evaluate() with the trainer's weights and buffers. */
KD_MUST_USE kd_status kd_trainer_evaluate(kd_trainer *trainer,
                                          const kd_sequences *sequences,
                                          const kd_reduce *reduce,
                                          kd_evaluation *evaluation_out);

#endif
