/*
 * channel.h - how the signals of a micro-batch come from a teacher to a student.
 *
 * A channel carries the messages of one teacher (signal.h says what stands where in them), in
 * ascending order of the global micro-batch number m. Its kinds look the same from here:
 *
 *   over MPI (comm/stream.h)   teacher and student are ranks of their own,
 *   local (below)              both roles in one process: receive runs the teacher at once.
 *
 * Both:     open_step(first_m, end_m, groups), for each step in order, once its order is known
 * Teacher:  begin_send(m) -> message, fill the step's groups, end_send(m); ... flush()
 * Student:  receive(m) -> message, read the step's groups, release(m)
 *
 * A message moves only once its step is open, and of it only the groups of the step. In a step without
 * groups nothing moves: teachers send nothing, and receive gives NULL at once. Of groups that did not
 * travel the message holds anything.
 *
 * begin_send blocks until a buffer is free, which is when the student that gets m has room:
 * a free receive slot is the credit. receive blocks until the message is complete.
 * end_send(ready): the message may leave once the event is past; release(done): the buffer may be
 * written again once the event is. A message lies where operations of the back end that writes or reads it
 * have it near, a GPU's in its own memory: the host sees it by a download. Operations queued after receive
 * read it whole. progress() never blocks; it lets messages under way move, and is
 * called between blocks of the model. All calls of one channel come from one thread.
 */
#ifndef KD_DISTILL_CHANNEL_H
#define KD_DISTILL_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "distill/signal.h"
#include "tensor/ops.h"

typedef struct kd_channel kd_channel;

typedef struct kd_channel_ops {
    /* KD_ERR_STATE if it does not begin where the step before ends, or too many steps are open. */
    kd_status (*open_step)(kd_channel *channel, uint64_t first_m, uint64_t end_m, uint64_t groups);
    kd_status (*begin_send)(kd_channel *channel, uint64_t m, void **message_out);
    kd_status (*end_send)(kd_channel *channel, uint64_t m, kd_event ready);
    kd_status (*flush)(kd_channel *channel); /* every message sent has been taken */
    kd_status (*receive)(kd_channel *channel, uint64_t m, void **message_out);
    kd_status (*release)(kd_channel *channel,
                         uint64_t m,
                         kd_event done); /* fine without a message */
    void (*progress)(kd_channel *channel);
    void (*destroy)(kd_channel *channel);
} kd_channel_ops;

struct kd_channel {
    const kd_channel_ops *ops;
    bool is_local;           /* receive runs the teacher: its time is work, not waiting */
    uint64_t stall_ns;       /* time spent blocked in begin_send or receive, in all */
    uint64_t bytes_moved;    /* in all */
    uint64_t messages_moved; /* in all; those of which some group travelled */
};

/* Queues what writes the step's groups of m into the message. */
typedef kd_status (*kd_channel_produce)(void *user, uint64_t m, uint64_t groups, void *message);

/*
 * For channels themselves: queues transfers by `mover` of these groups of a message, each to the same place,
 * after `after`; returns the event of their end, `after` where there are none.
 */
kd_event kd_message_carry(kd_backend *mover,
                          const kd_message_plan *plan,
                          uint64_t groups,
                          void *dst,
                          const void *src,
                          kd_event after);

/*
 * The local kind: receive(m) has `produce` write the channel's one buffer, on the writer's queue after
 * what has read it and before what will; the host waits for neither. Between two devices, or a device and
 * the host, the message crosses by a transfer from a buffer of the writer's to one of the reader's.
 * begin_send and end_send are not for it (KD_ERR_STATE).
 */
typedef struct kd_local_settings {
    const kd_message_plan *plan; /* only read during the call             */
    int n_steps;                 /* that may be open at a time            */
    kd_backend *writer, *reader; /* they live as long; may be the same    */
    kd_channel_produce produce;
    void *user;
} kd_local_settings;

KD_MUST_USE kd_status kd_channel_create_local(const kd_local_settings *settings,
                                              kd_channel **channel_out);
void kd_channel_destroy(kd_channel *channel); /* NULL is fine */

#endif
