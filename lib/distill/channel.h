/*
 * channel.h - how the signals of a micro-batch come from a teacher to a student.
 *
 * A channel carries one message of plan->message_bytes per micro-batch, in ascending order of the
 * global micro-batch number m. Its two kinds look the same from here:
 *
 *   over MPI (comm/stream.h)   teacher and student are ranks of their own,
 *   local (below)              both roles in one process: receive runs the teacher at once.
 *
 * Teacher:  begin_send(m) -> buffer, fill it, end_send(m); ... flush()
 * Student:  receive(m) -> message, read it, release(m)
 *
 * begin_send blocks until a buffer is free, which is when the student that gets m has room:
 * a free receive slot is the credit. receive blocks until the message is complete.
 * progress() never blocks; it lets messages under way move, and is called between blocks
 * of the model. All calls of one channel come from one thread.
 */
#ifndef KD_DISTILL_CHANNEL_H
#define KD_DISTILL_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kd_channel kd_channel;

typedef struct kd_channel_ops {
    kd_status (*begin_send)(kd_channel *channel, uint64_t m, void **buffer_out);
    kd_status (*end_send)(kd_channel *channel, uint64_t m);
    kd_status (*flush)(kd_channel *channel); /* every message sent has been taken */
    kd_status (*receive)(kd_channel *channel, uint64_t m, void **message_out);
    kd_status (*release)(kd_channel *channel, uint64_t m);
    void (*progress)(kd_channel *channel);
    void (*destroy)(kd_channel *channel);
} kd_channel_ops;

struct kd_channel {
    const kd_channel_ops *ops;
    uint64_t stall_ns;       /* time spent blocked in begin_send or receive, in all */
    uint64_t bytes_moved;    /* in all */
    uint64_t messages_moved; /* in all */
};

/*
 * The local kind: receive(m) has `produce` write the message into the channel's one buffer.
 * begin_send and end_send are not for it (KD_ERR_STATE).
 */
typedef kd_status (*kd_channel_produce)(void *user, uint64_t m, void *message);
KD_MUST_USE kd_status kd_channel_create_local(size_t message_bytes,
                                              kd_channel_produce produce,
                                              void *user,
                                              kd_channel **channel_out);
void kd_channel_destroy(kd_channel *channel); /* NULL is fine */

#endif
