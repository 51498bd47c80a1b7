/*
 * objective.h - the weighted sum of the losses over one micro-batch, and its gradient.
 *
 * The losses over the vocabulary are one operation of the back end (vocab_loss), which forms logits
 * chunk by chunk from hidden states and lm_heads and gives sums, d_hidden and d_lm_head.
 *
 * Each loss is a mean over the rows that it counts in the whole step, on all ranks: whoever runs the
 * step sums kd_objective_count() over micro-batches and ranks, and gives the sums to
 * kd_objective_begin() before the first forward pass. A loss that counts no row is 0 and has no
 * gradient.
 *
 * Memory: d_hidden, allocated at creation. Threads: that of the back end.
 */
#ifndef KD_DISTILL_OBJECTIVE_H
#define KD_DISTILL_OBJECTIVE_H

#include "distill/loss.h"
#include "model/decoder.h"

typedef struct kd_objective_settings {
    kd_schedule weights[KD_LOSS_COUNT]; /* >= 0 */
    kd_schedule temperature;            /* >= 0.001 */
    bool scale_by_t2;                   /* raw kd is multiplied by T * T */
    kd_transport transport;
    int64_t chunk_rows; /* of logits at most; 0: the back end chooses */
} kd_objective_settings;

/* DESIGN's defaults with a teacher: kd 0.7, hard 0.3, balance 0.01, z 0.001, T 4, T^2 on. */
kd_objective_settings kd_objective_defaults(void);

/* KD_ERR_INVALID names the loss or the field. */
KD_MUST_USE kd_status kd_objective_check(const kd_objective_settings *settings);

/*
 * The signals of one micro-batch of at most max_rows tokens: the same on teacher and student.
 * teacher NULL, or all weights of losses that need signals 0: an empty plan.
 */
KD_MUST_USE kd_status kd_objective_plan(const kd_objective_settings *settings,
                                        const kd_model_config *student,
                                        const kd_model_config *teacher,
                                        kd_dtype compute,
                                        int64_t max_rows,
                                        kd_signal_plan *plan_out);

typedef struct kd_objective kd_objective;

/* A teacher as the student's side sees it; {0} where there is none. */
typedef struct kd_teacher_view {
    const kd_model_config *config; /* NULL: none. Only read during the call.                     */
    kd_tensor lm_head;             /* (V', C') compute, borrowed; needed if hidden states travel */
} kd_teacher_view;

/* KD_ERR_INVALID if vocabularies do not fit or a setting is bad; KD_ERR_ARG without the lm_head. */
KD_MUST_USE kd_status kd_objective_create(kd_backend *be,
                                          const kd_objective_settings *settings,
                                          const kd_model_config *student,
                                          const kd_teacher_view *teacher,
                                          int64_t max_rows,
                                          kd_objective **objective_out);
void kd_objective_destroy(kd_objective *objective);

const kd_signal_plan *kd_objective_signals(const kd_objective *objective);

/* Adds the rows of a micro-batch that each loss counts; labels (n_rows), host, or NULL. */
void kd_objective_count(const kd_objective *objective,
                        const int32_t *labels,
                        int64_t n_rows,
                        int64_t counts[KD_LOSS_COUNT]);

/* What a step is about to go through, on all ranks. */
typedef struct kd_step_counts {
    int64_t rows[KD_LOSS_COUNT]; /* that each loss counts           */
    bool labelled;               /* whether its batches have labels */
} kd_step_counts;

/* Starts a step: weights and temperature are those of `step`, the sums are cleared. */
void kd_objective_begin(kd_objective *objective, uint64_t step, const kd_step_counts *counts);

/* What the gradient of a loss is multiplied by in this step: its weight over its count, or 0. */
double kd_objective_scale(const kd_objective *objective, kd_loss_id id);

/* Whether any loss that was computed in this step has a weight and rows: without, nothing moves. */
bool kd_objective_teaches(const kd_objective *objective);

/*
 * One micro-batch after kd_decoder_forward(): adds to the sums and to the lm_head's gradient and
 * returns d_hidden (n_rows, C) f32 for kd_decoder_backward(), valid until the next call.
 *   labels (n_rows) i32, in the back end's memory; none in a step without labels
 *   message: of the plan, or NULL: losses that need signals are not computed
 */
kd_tensor kd_objective_run(kd_objective *objective,
                           const kd_decoder *decoder,
                           kd_tensor labels,
                           void *message);

/*
 * Losses over layers listen to this decoder from now on, which must be of the student's shape, until it
 * is told otherwise; the objective must live until then.
 */
KD_MUST_USE kd_status kd_objective_listen(kd_objective *objective, kd_decoder *decoder);

/* The step's sums on this rank, (KD_SUM_COUNT) f64. */
kd_tensor kd_objective_sums(const kd_objective *objective);

/* One loss of one step. */
typedef struct kd_loss_value {
    const char *name; /* static */
    double weight;    /* at this step */
    double raw;       /* mean over the rows of the global batch; 0 if not computed */
    double weighted;  /* raw * weight */
    bool computed;
} kd_loss_value;

/*
 * Means of the step begun last, from the global sums (KD_SUM_COUNT): every loss whose weight is not
 * 0 for ever, and `hard`, which costs nothing. Writes at most KD_LOSS_COUNT values; returns
 * how many.
 */
int kd_objective_report(const kd_objective *objective,
                        const double *sums,
                        kd_loss_value *values_out,
                        double *total_out);

#endif
