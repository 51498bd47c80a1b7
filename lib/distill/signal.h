/*
 * signal.h - the signal plan: which tensors each teacher gives for one micro-batch, and where each lies
 * in that teacher's message.
 *
 * Both sides compute the plan from the job and the model configurations alone; nothing about it is
 * ever sent. A loss adds what it needs; a signal that two losses read stands once. When all have been
 * added, kd_signal_plan_lay_out() gives each its place: the signals of a teacher that the same losses
 * read lie side by side and form a group, which travels while any of those losses has weight and is
 * neither computed nor sent otherwise. A set of groups is a mask, bit g for group g.
 *
 * Pure. Threads: any; a plan that was laid out is not changed by its use.
 */
#ifndef KD_DISTILL_SIGNAL_H
#define KD_DISTILL_SIGNAL_H

#include "model/taps.h"

#define KD_SIGNAL_GROUPS_MAX 64 /* of one teacher: the bits of a mask */

typedef enum kd_signal_kind {
    KD_SIGNAL_LOGITS, /* (N, V) f32, of the teacher's lm_head                                  */
    KD_SIGNAL_HIDDEN, /* (N, C) compute, after the final norm: the student applies the lm_head */
    KD_SIGNAL_TAP,    /* + a kd_tap_point with a row for each token: its value there (taps.h)  */
    KD_SIGNAL_KIND_COUNT = KD_SIGNAL_TAP + KD_TAP_COUNT,
} kd_signal_kind;

/* The points that can be signals as they are. Rows of experts lie in the order of the route. */
#define KD_SIGNAL_TAPS                                                                             \
    (KD_TAP_BIT(KD_TAP_HIDDEN) | KD_TAP_BIT(KD_TAP_ROUTER) | KD_TAP_BIT(KD_TAP_KEY) |              \
     KD_TAP_BIT(KD_TAP_VALUE))

typedef struct kd_signal {
    int teacher; /* counted from 0 */
    kd_signal_kind kind;
    int64_t layer; /* 0 where the kind has none */
    kd_dtype dtype;
    int64_t rows, columns; /* of the largest micro-batch */

    /* The plan's, from here on. */
    uint64_t readers;    /* the losses that read it, bit i for loss i */
    int group;           /* of the teacher's message */
    size_t offset_bytes; /* within the message, a multiple of KD_ARENA_ALIGN */
    size_t size_bytes;
} kd_signal;

/* A part of a message that travels by itself. */
typedef struct kd_signal_group {
    uint64_t readers;
    size_t offset_bytes, size_bytes; /* within the message, multiples of KD_ARENA_ALIGN */
} kd_signal_group;

typedef struct kd_message_plan {
    kd_signal_group groups[KD_SIGNAL_GROUPS_MAX];
    int n_groups; /* 0: this teacher gives nothing */
    size_t message_bytes;
} kd_message_plan;

typedef struct kd_signal_plan { /* {0} is an empty one */
    kd_signal *signals;         /* owned; ordered by teacher and group once laid out */
    int n_signals, n_room;
    kd_message_plan *messages; /* (n_teachers), owned; NULL until laid out */
    int n_teachers;
} kd_signal_plan;

void kd_signal_plan_release(kd_signal_plan *plan); /* leaves {0} */

/*
 * Adds a signal, of which teacher, kind, layer, dtype and shape are read, unless it is there already,
 * and notes that loss `reader` reads it. Only before the plan is laid out.
 */
KD_MUST_USE kd_status kd_signal_plan_add(kd_signal_plan *plan, const kd_signal *signal, int reader);

/* Once: gives signals and groups their places. KD_ERR_INVALID past KD_SIGNAL_GROUPS_MAX groups. */
KD_MUST_USE kd_status kd_signal_plan_lay_out(kd_signal_plan *plan, int n_teachers);

/* NULL if the plan has no such signal. */
const kd_signal *
kd_signal_plan_find(const kd_signal_plan *plan, int teacher, kd_signal_kind kind, int64_t layer);

/* Whether the plan has this very signal, of the same dtype and shape, for all of its readers. */
bool kd_signal_plan_holds(const kd_signal_plan *plan, const kd_signal *signal);

/* The groups of a teacher's message that any of `losses` reads (bit i: loss i). */
uint64_t kd_signal_plan_mask(const kd_signal_plan *plan, int teacher, uint64_t losses);

/* What these groups take of a message. */
size_t kd_message_plan_bytes(const kd_message_plan *plan, uint64_t groups);

/* What a channel takes for `depth` messages at a time, of each kind of memory that they cross. */
size_t kd_message_plan_slots_bytes(const kd_message_plan *plan, int depth);

/* The first `rows` rows of a signal in a message. */
kd_tensor kd_signal_view(const kd_signal *signal, void *message, int64_t rows);

#endif
