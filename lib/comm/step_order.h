/*
 * step_order.h - the one thing that decides what all ranks do at a step boundary.
 *
 * The student leader issues the order for step n + lead at the boundary before step n; every
 * rank takes the order for step n before it starts it, and may look at later ones as they arrive. The
 * lead (at least 1) lets teachers run ahead of the students without waiting for an order that does not
 * exist yet: lead * micro-batches per step >= micro-batches that a teacher can be ahead.
 *
 * An order says which groups of each teacher's messages travel in its step, and carries the changes of
 * live values that act from its step on. Orders for the first `lead` steps are issued at creation;
 * they are KD_ORDER_CONTINUE without changes. Broadcasts are non-blocking, of one size, and posted in the
 * same order everywhere.
 *
 * Threads: MPI's, as comm/world.h says.
 */
#ifndef KD_COMM_STEP_ORDER_H
#define KD_COMM_STEP_ORDER_H

#include "comm/world.h"

#define KD_ORDER_LEAD_MAX     1024 /* more would only make teachers wait later     */
#define KD_ORDER_TEACHERS_MAX 1024 /* so that an order stays small                 */
#define KD_ORDER_TEXT_BYTES   2048 /* for the changes of one order, the 0 included */

typedef enum kd_order_kind {
    KD_ORDER_CONTINUE,
    KD_ORDER_SAVE, /* write a checkpoint before the step, then go on */
    KD_ORDER_STOP, /* write a checkpoint before the step, then end   */
} kd_order_kind;

typedef struct kd_step_order {
    uint64_t step; /* the step it is for */
    kd_order_kind kind;
    uint64_t version;       /* of the live values in its step: equal on ranks that agree */
    const uint64_t *groups; /* (n_teachers): a mask of groups each (distill/signal.h)       */
    const char *changes;    /* as the leader gave them; "": none                            */
} kd_step_order;            /* the pointers hold until the order after it is taken          */

/* What the leader wants for a step. */
typedef struct kd_order_wish {
    kd_order_kind kind;
    const char *changes; /* less than KD_ORDER_TEXT_BYTES bytes; NULL: none */
} kd_order_wish;

typedef struct kd_order_settings {
    uint64_t first_step;
    int lead;       /* 1 to KD_ORDER_LEAD_MAX     */
    int n_teachers; /* 0 to KD_ORDER_TEACHERS_MAX */
    /*
     * The leader's, called once for each step in order, its changes being known: writes the masks and
     * returns the version. Others may leave it NULL.
     */
    uint64_t (*groups_of)(void *user, uint64_t step, uint64_t *groups_out);
    void *user;
} kd_order_settings;

typedef struct kd_order_stream kd_order_stream;

/*
 * All ranks, with the same first step, lead and number of teachers. Blocks for the first orders.
 * KD_ERR_INVALID, on every rank, for more teachers than an order has room for.
 */
KD_MUST_USE kd_status kd_order_stream_create(kd_world *world,
                                             const kd_order_settings *settings,
                                             kd_order_stream **stream_out);
/* Collective: every rank has taken the orders of the same steps. NULL is fine. */
void kd_order_stream_destroy(kd_order_stream *stream);

/*
 * Before each step, in order: the leader passes what it wants for step + lead; others pass NULL.
 * Blocks until the order for `step` is here. KD_ERR_PROTO for one that is not an order for it.
 */
KD_MUST_USE kd_status kd_order_stream_next(kd_order_stream *stream,
                                           uint64_t step,
                                           const kd_order_wish *wish,
                                           kd_step_order *order_out);

/*
 * True, with the order, if that of a step which was not taken yet is here; false also on a fault, which
 * kd_order_stream_next() then returns. Never blocks.
 */
bool kd_order_stream_peek(kd_order_stream *stream, uint64_t step, kd_step_order *order_out);

#endif
