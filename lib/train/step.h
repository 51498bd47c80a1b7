/*
 * step.h - the trainer: one student rank's model, and what makes one optimizer update of it.
 *
 *   count the rows of each loss, over all micro-batches and student ranks
 *   for each local micro-batch:  receive -> forward -> objective -> backward -> release
 *   sum gradients and losses over the student ranks
 *   clip, AdamW
 *
 * Gradients are means from the start: each loss is divided by its own count as it is formed. Cutting
 * the batch into other micro-batches or over other ranks changes nothing but rounding (`balance`
 * alone is taken per micro-batch).
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
#include "train/source.h"
#include "train/step_time.h"

typedef struct kd_trainer_settings {
    const Kd__Objective *objective; /* completed (objective.h); copied */
    const Kd__Training *training;   /* completed; copied               */
    int64_t max_batch;              /* sequences of a micro-batch at most */
    int64_t n_tokens;               /* of each sequence */
} kd_trainer_settings;

/* What this rank does in one step: micro-batches first_m, first_m + stride, ... */
typedef struct kd_step_work {
    uint64_t step; /* counted from 0; what is told of it, from 1, as in metrics.csv */
    const kd_source *source;
    uint64_t first_m, stride;
    int64_t n_batches; /* at least 1 */
} kd_step_work;

typedef struct kd_step_result {
    kd_loss_value losses[KD_LOSSES_MAX];
    int n_losses;
    double loss;          /* the weighted sum */
    double gradient_norm; /* of the exported groups' mean gradient, before clipping */
    double learning_rate;
    double accuracy;     /* share of labelled rows whose largest logit is the label; 0 without */
    uint64_t n_tokens;   /* labelled rows of the global batch; all of them without labels */
    bool updated;        /* false: no loss had a weight and rows; the weights stay as they were */
    double stall_s;      /* that this rank waited for signals */
    kd_step_times times; /* on this rank, by part */
} kd_step_result;

typedef struct kd_trainer kd_trainer;

/* Owns params (for training, filled) from then on, also when it fails. */
KD_MUST_USE kd_status kd_trainer_create(kd_parameters *params,
                                        const kd_trainer_settings *settings,
                                        const kd_teacher_view *teachers,
                                        int n_teachers,
                                        kd_trainer **trainer_out);
void kd_trainer_destroy(kd_trainer *trainer);

/* Other values between two steps (kd_objective_set); nothing is built anew. */
KD_MUST_USE kd_status kd_trainer_set_objective(kd_trainer *trainer, const Kd__Objective *message);

/* Another rate between two steps: what the schedule of `training` starts from. */
void kd_trainer_set_learning_rate(kd_trainer *trainer, double learning_rate);

/* Other teachers between two steps; weights, moments and all values stay, on a fault everything. */
KD_MUST_USE kd_status kd_trainer_set_teachers(kd_trainer *trainer,
                                              const kd_teacher_view *teachers,
                                              int n_teachers);

/* The signals that messages of the channels hold. */
const kd_signal_plan *kd_trainer_signals(const kd_trainer *trainer);
kd_parameters *kd_trainer_parameters(const kd_trainer *trainer);
kd_optimizer *kd_trainer_optimizer(const kd_trainer *trainer);

/* What a trainer holds, by what it is for; messages are the channels'. */
typedef struct kd_trainer_memory {
    kd_parameters_memory parameters;
    size_t moment_bytes, activation_bytes;
    size_t objective_bytes; /* the gradient of hidden states, and sums */
    size_t label_bytes;     /* of a micro-batch                        */
    size_t host_bytes;      /* beside the back end's                   */
} kd_trainer_memory;

kd_trainer_memory kd_trainer_memory_of(const kd_trainer *trainer);

/*
 * One update. channels (n_teachers), on which the step is open; NULL in it, or for all of it: losses
 * that need signals do without those. Every student rank makes the same call; blocks on the channels and
 * on `reduce`.
 *
 * KD_ERR_INVALID names a token or label out of range, that some batches have labels and others none, on whatever ranks,
 * or a loss or gradient norm that is not finite, with the step: all ranks see the same, and the same
 * step again would end the same way. Other errors are the source's, a channel's, the reduction's or
 * the back end's. After an error the weights are those before the step. An error that only this rank
 * sees leaves the others blocked in `reduce`: the caller ends the whole job then.
 */
KD_MUST_USE kd_status kd_trainer_step(kd_trainer *trainer,
                                      const kd_step_work *work,
                                      kd_channel *const *channels,
                                      const kd_reduce *reduce,
                                      kd_step_result *result_out);

/* Whether a step failed by a loss or gradient norm that is not finite: of the weights, not of its text. */
bool kd_trainer_has_diverged(const kd_trainer *trainer);

/*
 * The same without the update: what a step would report, forward and backward, of which the
 * gradient is dropped.
 */
KD_MUST_USE kd_status kd_trainer_losses(kd_trainer *trainer,
                                        const kd_step_work *work,
                                        kd_channel *const *channels,
                                        const kd_reduce *reduce,
                                        kd_step_result *result_out);

/*
 * The student's logits for a batch of at most max_batch sequences of n_tokens: (N, V) f32, host.
 * KD_ERR_INVALID names a token out of range. Allocates a chunk of rows for the call.
 */
KD_MUST_USE kd_status kd_trainer_logits(kd_trainer *trainer,
                                        const kd_batch *batch,
                                        float *logits_out);

/* kd_evaluate() with the trainer's weights and buffers. */
KD_MUST_USE kd_status kd_trainer_evaluate(kd_trainer *trainer,
                                          const kd_sequences *sequences,
                                          const kd_reduce *reduce,
                                          kd_evaluation *evaluation_out);

#endif
