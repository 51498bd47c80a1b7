/*
 * stream.h - the channel between the replicas of one teacher and the students, over MPI.
 *
 * A student holds `depth` receive slots. A slot is posted for its next micro-batch as soon as it was
 * released and that micro-batch's step is open: which groups to expect stands in the step's order. A
 * teacher holds `depth` send buffers with synchronous-mode sends: such a send completes only when the
 * matching receive was posted, so a free slot is the credit, no matter how small the message. With one
 * replica and one student the teacher is never more than 2 * depth micro-batches ahead; in general
 * depth * (students + replicas).
 *
 * Memory. MPI and operations share a CPU's buffers. A GPU's are given to MPI where it takes device memory;
 * otherwise a student's may be the replica's to write, if both are on one host and a copy that is tried at
 * creation arrives (memory_export of tensor/ops.h; KD_DEVICE_SHARING=no of the environment forbids it). What
 * is left crosses through registered host memory, `depth` messages in each, by transfers beside the
 * operations. Which way they go is logged at creation.
 *
 * Requests are persistent, one for each slot, peer and group, made when first used. Between a replica
 * and a student the sends and receives of a group start in ascending order of m, with the group's own
 * tag; MPI's rule that messages do not overtake each other pairs them.
 *
 * Threads: MPI's, which is that of the back end too.
 */
#ifndef KD_COMM_STREAM_H
#define KD_COMM_STREAM_H

#include "comm/world.h"
#include "distill/channel.h"
#include "tensor/ops.h"

typedef struct kd_stream_settings {
    int teacher;                 /* one with replicas                                */
    const kd_message_plan *plan; /* of its messages, not empty; only read during the call */
    kd_backend *be;              /* whose memory the buffers are, and on whose queue
                                    messages are written or read; must live as long   */
    int depth;
    int n_steps; /* that may be open at a time */
} kd_stream_settings;

/*
 * Collective over the students and the teacher's replicas, with the same settings but for `be`.
 * Students get the receiving end, teachers the sending one. Students may destroy theirs at any
 * step's end, with steps open whose micro-batches were never sent; teachers flush first. Where device
 * memory is shared, destroying is collective, too.
 * KD_ERR_INVALID for a message that is too large for MPI, or too many requests.
 */
KD_MUST_USE kd_status kd_stream_create(kd_world *world,
                                       const kd_stream_settings *settings,
                                       kd_channel **channel_out);

#endif
