/*
 * objective.h - the weighted sum of the losses over one micro-batch, and its gradient.
 *
 * What it is made of stands in the job's message Objective, taken as it is: one field for each loss,
 * completed (every loss has its weight, kd its temperature). Which losses exist, and which signals
 * they need, is decided once, by the models; weights, temperatures and all other values may change
 * between steps.
 *
 * The losses over the vocabulary are one operation on the student's hidden states and lm_head, so
 * that its logits (N, V) never exist; the others listen to the decoder (loss.h).
 *
 * Each loss is a mean over the rows that it counts in the whole step, on all ranks: whoever runs the
 * step sums kd_objective_count() over micro-batches and ranks, and gives the sums to
 * kd_objective_begin() before the first forward pass.
 *
 *   count ... -> begin -> (forward -> run -> backward) ... -> download sums -> report
 *
 * Memory: d_hidden and the sums, allocated at creation. Threads: that of the back end.
 */
#ifndef KD_DISTILL_OBJECTIVE_H
#define KD_DISTILL_OBJECTIVE_H

#include "distill/loss.h"
#include "model/decoder.h"

/*
 * The signals of one micro-batch of at most max_rows tokens: the same on teacher and student. Those
 * of losses whose weight is 0 are among them, since that may change. The caller releases the plan.
 */
KD_MUST_USE kd_status kd_objective_plan(const Kd__Objective *objective,
                                        const kd_model_config *student,
                                        const kd_teacher_view *teachers,
                                        int n_teachers,
                                        int64_t max_rows,
                                        kd_signal_plan *plan_out);

/*
 * The losses that read signals in this step, as a mask: bit i is the i-th row of the table of losses,
 * which kd_signal_plan_mask() turns into groups. 0: nothing of a teacher is read.
 */
uint64_t kd_objective_readers(const Kd__Objective *objective, uint64_t step);

typedef struct kd_objective kd_objective;

/*
 * The message is copied, as are the views but for their lm_heads.
 * KD_ERR_INVALID if vocabularies do not fit; KD_ERR_ARG without an lm_head that is needed.
 */
KD_MUST_USE kd_status kd_objective_create(kd_backend *be,
                                          const Kd__Objective *message,
                                          const kd_model_config *student,
                                          const kd_teacher_view *teachers,
                                          int n_teachers,
                                          int64_t max_rows,
                                          kd_objective **objective_out);
void kd_objective_destroy(kd_objective *objective);
size_t kd_objective_bytes(const kd_objective *objective); /* of its tensors */

/*
 * Other values, completed as well, from the next kd_objective_begin() on; each call is held against the
 * creation, not against the call before.
 *   changes      weights, temperatures and every other value of the losses that there were at creation;
 *                one that is left out has the weight 0, until a later call brings it back
 *   KD_ERR_STATE a loss that was left out at creation, or a value that asks a teacher for another
 *                signal: decoder, messages and memory are made for what there was. Nothing changes then
 */
KD_MUST_USE kd_status kd_objective_set(kd_objective *objective, const Kd__Objective *message);

const kd_signal_plan *kd_objective_signals(const kd_objective *objective);

/*
 * What listens to the decoder (kd_decoder_listen), for as long as the objective lives. Writes at most
 * KD_LOSSES_MAX; returns how many.
 */
int kd_objective_listeners(kd_objective *objective, kd_listener *listeners_out);

/* Losses there are: `n` of kd_objective_count() and the values of a report. */
int kd_objective_n_losses(const kd_objective *objective);

/* Adds the rows of a micro-batch that each loss counts, to (n_losses) counts. */
void kd_objective_count(const kd_objective *objective, const kd_batch *batch, int64_t *counts);

/*
 * Starts a step: weights and values are those of `step`, the sums are cleared.
 *   counts: of all micro-batches and ranks; labelled: whether the batches have labels
 */
void kd_objective_begin(kd_objective *objective,
                        uint64_t step,
                        const int64_t *counts,
                        bool labelled);

/*
 * One micro-batch after kd_decoder_forward(): adds to the sums and to the lm_head's gradient and
 * returns d_hidden (n_rows, C) f32 for kd_decoder_backward(), valid until the next call.
 *   labels (n_rows) i32, in the back end's memory: a row that is KD_LABEL_IGNORED takes no part; in a
 *     step without labels any other number only says that a row is real; none: all are
 *   messages (n_teachers) of the plan, NULL of those that gave none; or NULL: none did, and losses
 *     that need signals are not computed
 */
kd_tensor kd_objective_run(kd_objective *objective,
                           const kd_decoder *decoder,
                           int64_t n_rows,
                           kd_tensor labels,
                           void *const *messages);

/* All sums of the step, f64; the first KD_VOCAB_SUMS are those of the loss over the vocabulary. */
kd_tensor kd_objective_sums(const kd_objective *objective);

/* Whether any loss that was computed in this step has a weight and rows: without, nothing moves. */
bool kd_objective_teaches(const kd_objective *objective);

/*
 * Means of the step begun last, from its sums over all ranks, in the order of the table. Writes
 * n_losses values; returns the weighted sum.
 */
double
kd_objective_report(const kd_objective *objective, const double *sums, kd_loss_value *values_out);

#endif
