/*
 * loss.h - what one loss is to the objective: a row of a table.
 *
 * A loss is one file that fills in a kd_loss_kind and one value of kd_loss_id. It says which
 * signals it needs of the teacher, which rows it counts, what it adds to a chunk of rows over the
 * vocabulary, and where its sum stands. Each loss is a mean over the rows of the whole step that it
 * counts: its gradient is divided by that count as it is formed, its sum when it is reported.
 *
 *   kd       T^2 * KL(softmax(z_T / T) || softmax(z_S / T))     soft_target.c   labelled rows
 *   hard     cross-entropy with the labels                      hard_target.c   labelled rows
 *   balance  load balancing of the router (Switch, eq. 4)       balance.c       all rows
 *   z        router z-loss (ST-MoE, eq. 5)                      balance.c       all rows
 *
 * balance is a product of means, and taken per micro-batch. Losses over layers act at the taps of the
 * backward pass (model/taps.h), and are means over the layers where they act, too.
 */
#ifndef KD_DISTILL_LOSS_H
#define KD_DISTILL_LOSS_H

#include "distill/schedule.h"
#include "distill/signal.h"
#include "model/taps.h"
#include "shape/config.h"
#include "tensor/ops.h"

typedef enum kd_loss_id {
    KD_LOSS_KD,
    KD_LOSS_HARD,
    KD_LOSS_BALANCE,
    KD_LOSS_Z,
    KD_LOSS_COUNT,
} kd_loss_id;

/* Sums over rows that a step gathers, all f64; the first ones are vocab_loss's. */
enum {
    KD_SUM_BALANCE = KD_VOCAB_SUMS,
    KD_SUM_Z,
    KD_SUM_COUNT,
};

/* How the teacher's logits travel. */
typedef enum kd_transport {
    KD_TRANSPORT_AUTO,   /* the exact one with fewer bytes                                      */
    KD_TRANSPORT_LOGITS, /* every logit: 4 V bytes a token                                      */
    KD_TRANSPORT_HIDDEN, /* the last hidden state; the student rank holds the teacher's lm_head */
} kd_transport;

/* What both sides know before anything runs. */
typedef struct kd_plan_context {
    const kd_model_config *student;
    const kd_model_config *teacher;
    kd_transport transport;
    kd_dtype compute; /* of both models */
    int64_t max_rows; /* N of the largest micro-batch */
} kd_plan_context;

/* A micro-batch, as the losses over the vocabulary see it. */
typedef struct kd_loss_input {
    const kd_signal_plan *plan;
    void *message; /* with the plan's signals of this micro-batch */
    int64_t n_rows;
    double temperature;
    bool scale_by_t2;
    kd_tensor teacher_lm_head; /* (V', C') compute, where hidden states travel                */
    kd_vocab_teacher *teacher; /* filled in by the loss that reads it; lives as long as needed */
} kd_loss_input;

/* A loss over layers while a backward pass is under way. */
typedef struct kd_layer_loss {
    kd_backend *be;
    double scale;  /* its weight over its count and its layers, > 0 */
    kd_tensor sum; /* (1) f64: its sum over rows and layers, added to */
} kd_layer_loss;

typedef struct kd_loss_kind {
    const char *name;
    int sum;            /* its place among the sums                                           */
    bool needs_signals; /* not computed where the teacher gave none                           */
    bool needs_labels;  /* not computed in a step without labels                              */
    bool by_t2;         /* its sum lacks the factor T * T, which may be off */
    /* Adds the signals it needs; NULL: none. Not called when its weight is 0 for ever. */
    kd_status (*plan)(const kd_plan_context *context, kd_signal_plan *plan);
    /* The rows of a micro-batch that it is a mean over; labels (n_rows), host, or NULL. */
    int64_t (*count)(const int32_t *labels, int64_t n_rows);
    /* Adds its part to the loss over the vocabulary; scale: its weight over its count, > 0. NULL: it
     * has none. */
    void (*vocab)(const kd_loss_input *input, double scale, kd_vocab_loss *loss);
    /* Of a loss over layers: its KD_TAP_BIT()s, at how many layers they are, and its part there. */
    unsigned points;
    int64_t (*layers)(const kd_model_config *student);
    void (*at)(const kd_layer_loss *loss, const kd_tap *tap);
} kd_loss_kind;

extern const kd_loss_kind kd_loss_soft_target;
extern const kd_loss_kind kd_loss_hard_target;
extern const kd_loss_kind kd_loss_balance;
extern const kd_loss_kind kd_loss_z;

const kd_loss_kind *kd_loss_get(kd_loss_id id);

/* What losses count: rows with a label, which are all of them where labels is NULL, or all. */
int64_t kd_rows_labelled(const int32_t *labels, int64_t n_rows);
int64_t kd_rows_all(const int32_t *labels, int64_t n_rows);

/* KD_ERR_NOT_FOUND names the nearest right name, or all of them. */
KD_MUST_USE kd_status kd_loss_find(const char *name, kd_loss_id *id_out);

/*
 * The columns that both vocabularies know: the smaller of the two sizes. They must share it as a
 * prefix, the rest being padding that kd leaves out: sizes that differ by KD_VOCAB_PADDING_MAX or
 * more are KD_ERR_INVALID, naming both.
 */
#define KD_VOCAB_PADDING_MAX 256
KD_MUST_USE kd_status kd_vocab_common(const kd_model_config *student,
                                      const kd_model_config *teacher,
                                      int64_t *n_vocab_out);

/* AUTO becomes the one of the others that moves fewer bytes a token; ties go to LOGITS. */
kd_transport
kd_transport_resolve(kd_transport wish, const kd_model_config *teacher, kd_dtype compute);

#endif
