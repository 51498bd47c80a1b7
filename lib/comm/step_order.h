/*
 * step_order.h - the one thing that decides what all ranks do at a step boundary.
 *
 * The student leader issues the order for step n + lead at the boundary before step n; every
 * rank takes the order for step n before it starts it. The lead (at least 1) lets teachers run
 * ahead of the students without waiting for an order that does not exist yet:
 * lead * micro-batches per step >= micro-batches that a teacher can be ahead.
 * Orders for the first `lead` steps are KD_ORDER_CONTINUE. Broadcasts are non-blocking and posted
 * in the same order everywhere.
 */
#ifndef KD_COMM_STEP_ORDER_H
#define KD_COMM_STEP_ORDER_H

#include "comm/world.h"

typedef enum kd_order_kind {
    KD_ORDER_CONTINUE,
    KD_ORDER_SAVE, /* write a checkpoint before the step, then go on */
    KD_ORDER_STOP, /* write a checkpoint before the step, then end   */
} kd_order_kind;

typedef struct kd_step_order {
    uint64_t step; /* the step it is for */
    kd_order_kind kind;
} kd_step_order;

typedef struct kd_order_stream kd_order_stream;

/* All ranks, with the same first step and lead. */
KD_MUST_USE kd_status kd_order_stream_create(kd_world *world,
                                             uint64_t first_step,
                                             int lead,
                                             kd_order_stream **stream_out);
/* Collective: every rank has taken the orders of the same steps. */
void kd_order_stream_destroy(kd_order_stream *stream);

/*
 * Before each step, in order: the leader passes what it wants (`wish`) for step + lead; others'
 * wishes are ignored. Blocks until the order for `step` is here.
 */
KD_MUST_USE kd_status kd_order_stream_next(kd_order_stream *stream,
                                           uint64_t step,
                                           kd_order_kind wish,
                                           kd_step_order *order_out);

#endif
