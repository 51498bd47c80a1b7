/*
 * loss.h - what one loss is to the objective: a row of a table.
 *
 * A loss is a message with a `weight`, one field of Objective in job.proto, one file in losses/ that
 * fills in a kd_loss_kind, and its line in losses/list.h. The table finds the message by the row's name; only the
 * loss's own file knows the other fields. Everything in the message is read anew at each step, so
 * all of it may change between steps but for what decides the signals.
 *
 *   kd       divergence of the softened distributions          soft_target.c   labelled rows
 *   hard     cross-entropy with the labels                      hard_target.c   labelled rows
 *   balance  load balancing of the router (Switch, eq. 4)       balance.c       real rows
 *   z        router z-loss (ST-MoE, eq. 5)                      balance.c       real rows
 *
 * Each loss is a mean over the rows of the whole step, on all ranks, that it counts: its gradient is
 * divided by that count as it is formed, its sum when it is reported. A loss that counts no row is 0
 * and has no gradient; one whose weight is 0 at a step is not computed.
 *
 * Threads: that of the back end.
 */
#ifndef KD_DISTILL_LOSS_H
#define KD_DISTILL_LOSS_H

#include "distill/schedule.h"
#include "distill/signal.h"
#include "model/taps.h"
#include "shape/vocabulary.h"
#include "tensor/ops.h"

/* A teacher as both sides see it. */
typedef struct kd_teacher_view {
    const kd_model_config *config;
    Kd__Teacher__Transport transport;
    kd_dtype compute;  /* the teacher's, which need not be the student's */
    kd_tensor lm_head; /* (V', C') compute, borrowed; the student's side, if hidden states travel */
} kd_teacher_view;

/* What is the same for all losses of an objective, known before anything runs. */
typedef struct kd_loss_context {
    const kd_model_config *student;
    const kd_teacher_view *teachers;
    int n_teachers;
    int64_t max_rows;           /* N of the largest micro-batch */
    kd_backend *be;             /* NULL while only the plan is made  */
    const kd_signal_plan *plan; /* likewise */
    int64_t n_vocab;            /* columns that all models know: the rest is one's own */
    /* Teachers whose logits vocab_loss reads in the run at hand, in its order, and the signals that those
     * came as: what a loss with a weight asked for, of weight 0 unless a loss says otherwise. */
    kd_vocab_teacher *seen;         /* (n_teachers) */
    const kd_signal **seen_signals; /* (n_teachers) */
    /* (n_teachers) of the micro-batch that kd_objective_run() was given last, for the backward pass; NULL
     * of those that gave none. */
    void *const *messages;
} kd_loss_context;

/* One loss of one step, or the part of it that one teacher gives. */
typedef struct kd_loss_value {
    const char *name; /* as long as the objective */
    double weight;    /* at this step */
    double raw;       /* mean over the rows of the global batch; 0 if not computed */
    double weighted;  /* raw * weight */
    bool computed;
} kd_loss_value;

typedef struct kd_loss_kind kd_loss_kind;

/* One loss of an objective. */
typedef struct kd_loss {
    const kd_loss_kind *kind;
    const kd_loss_context *context;
    const ProtobufCMessage *message; /* with the values in force */
    void *state;                     /* kind->state_bytes, zeroed at first */
    int number;                      /* of its row in the table: the reader of its signals */
    kd_tensor sums;                  /* (kind->n_sums) f64, its own, cleared at each step */
    int first_sum;                   /* where they stand among all sums */

    /* Of the step begun last. */
    double weight;
    int64_t count;
    bool computed;
} kd_loss;

struct kd_loss_kind {
    const char *name; /* the field of Objective */
    size_t state_bytes;
    int n_sums;
    unsigned points; /* KD_TAP_BIT()s where `at` is called, in steps where it has a weight */
    bool
        needs_labels; /* not computed in a step without them; one that plans signals, not without any */
    bool is_free;     /* computed at a weight of 0 too, to be reported */

    /* Whether there can be such a loss between these models; NULL: always. */
    bool (*exists)(const kd_loss_context *context);
    /*
     * Adds the signals it needs of each teacher, whatever its weight, since that may change; `reader` is
     * for kd_signal_plan_add(). NULL: none.
     */
    kd_status (*plan)(const ProtobufCMessage *message,
                      const kd_loss_context *context,
                      int reader,
                      kd_signal_plan *plan);
    /* The rows of a micro-batch that it counts. */
    int64_t (*count)(const kd_loss *loss, const kd_batch *batch);
    /* Reads what its message says of this step; NULL: nothing but the weight. */
    void (*begin)(kd_loss *loss, uint64_t step);
    /* Adds its part to the loss over the vocabulary; NULL: it has none. */
    void (*vocab)(kd_loss *loss, int64_t n_rows, kd_vocab_loss *args);
    /*
     * Its part at a chunk of the loss over the vocabulary, of whose rows it may count some, but none of
     * number -1; NULL: it has none. Adds to its sums, and to chunk->d_student. chunk->labels is none in a
     * step without labels; chunk->teachers has context->n_teachers logits, none of those that gave none,
     * and none at all for a loss that did not plan them.
     * A second pass over the chunk, which must not wait for the queue: a step where no such loss has a
     * weight pays nothing.
     */
    void (*chunk)(kd_loss *loss, const kd_vocab_chunk *chunk);
    /* Its part at a tap; NULL: it has none. context->messages are there in the backward pass only. */
    void (*at)(kd_loss *loss, const kd_tap *tap);
    /* Its mean, from all sums of the step; count > 0. */
    double (*mean)(const kd_loss *loss, const double *sums);
};

#define KD_LOSS(name) extern const kd_loss_kind kd_loss_##name;
#include "distill/losses/list.h"
#undef KD_LOSS

/* The table, in the order of reports. */
#define KD_LOSSES_MAX 16
int kd_loss_n_kinds(void);
const kd_loss_kind *kd_loss_kind_at(int i);

/* Its message in an objective, or NULL. */
const ProtobufCMessage *kd_loss_message(const kd_loss_kind *kind, const Kd__Objective *objective);

/* The weight that its message has at a step. */
double kd_loss_weight_at(const ProtobufCMessage *message, uint64_t step);

/* What its gradient is multiplied by in this step: its weight over its count, or 0. */
double kd_loss_scale(const kd_loss *loss);

/* What losses count: rows with a label (all real ones where there are no labels), or real rows. */
int64_t kd_loss_count_labelled(const kd_loss *loss, const kd_batch *batch);
int64_t kd_loss_count_real(const kd_loss *loss, const kd_batch *batch);

/* For `plan`: the logits of all teachers, or the hidden states that they are formed of. */
KD_MUST_USE kd_status kd_teacher_logits_plan(const ProtobufCMessage *message,
                                             const kd_loss_context *context,
                                             int reader,
                                             kd_signal_plan *plan);

/* Fills context->seen with the logits in context->messages that `readers` read; returns how many. */
int kd_teacher_logits_give(const kd_loss_context *context, uint64_t readers, int64_t n_rows);

/* What one token takes in the message, of logits or of hidden states. */
size_t kd_transport_token_bytes(Kd__Teacher__Transport transport,
                                const kd_model_config *teacher,
                                kd_dtype compute);

/* AUTO becomes the one of the others that moves fewer bytes a token; ties go to LOGITS. */
Kd__Teacher__Transport
kd_transport_resolve(Kd__Teacher__Transport wish, const kd_model_config *teacher, kd_dtype compute);

#endif
