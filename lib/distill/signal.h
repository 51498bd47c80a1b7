/*
 * signal.h - the signal plan: which tensors a teacher gives for one micro-batch, and where
 * each lies in the message.
 *
 * Both sides compute the plan from the job and the two model configurations alone; nothing about
 * it is ever sent. A loss adds what it needs; a signal that two losses need stands once.
 */
#ifndef KD_DISTILL_SIGNAL_H
#define KD_DISTILL_SIGNAL_H

#include "tensor/tensor.h"

#define KD_SIGNALS_MAX 64

typedef enum kd_signal_kind {
    KD_SIGNAL_LOGITS, /* (N, V) f32, of the teacher's lm_head                                  */
    KD_SIGNAL_HIDDEN, /* (N, C) compute, after the final norm: the student applies the lm_head */
    KD_SIGNAL_KIND_COUNT,
} kd_signal_kind;

typedef struct kd_signal {
    kd_signal_kind kind;
    int64_t layer; /* 0 where the kind has none */
    kd_dtype dtype;
    int64_t rows, columns; /* of the largest micro-batch */
    size_t offset_bytes;   /* within the message, a multiple of KD_ARENA_ALIGN */
    size_t size_bytes;
} kd_signal;

typedef struct kd_signal_plan {
    kd_signal signals[KD_SIGNALS_MAX];
    int n_signals;
    size_t message_bytes;
} kd_signal_plan;

/* Adds a signal unless it is there already. KD_ERR_NOMEM past KD_SIGNALS_MAX. */
KD_MUST_USE kd_status kd_signal_plan_add(kd_signal_plan *plan,
                                         kd_signal_kind kind,
                                         int64_t layer,
                                         kd_dtype dtype,
                                         int64_t rows,
                                         int64_t columns);

/* NULL if the plan has no such signal. */
const kd_signal *
kd_signal_plan_find(const kd_signal_plan *plan, kd_signal_kind kind, int64_t layer);

/* The first `rows` rows of a signal in a message. */
kd_tensor kd_signal_view(const kd_signal *signal, void *message, int64_t rows);

#endif
