/*
 * stream.h - the channel between teacher and student ranks over MPI.
 *
 * A student holds `depth` receive slots, each a message buffer with a persistent receive per
 * teacher that may fill it; a slot is posted for its next micro-batch as soon as it is released.
 * A teacher holds `depth` send buffers with persistent synchronous-mode sends per student: such a
 * send completes only when the matching receive was posted, so a free slot is the credit, no matter how
 * small the message. With one teacher and one student the teacher is never more than 2 * depth
 * micro-batches ahead; in general depth * (students + teachers).
 *
 * Between a teacher and a student both sends and receives start in ascending order of m, with one
 * tag; MPI's rule that messages do not overtake each other pairs them.
 */
#ifndef KD_COMM_STREAM_H
#define KD_COMM_STREAM_H

#include "comm/world.h"
#include "distill/channel.h"

/*
 * Collective over the world, with teachers present, for the micro-batches first_m <= m < end_m.
 * Students get the receiving end, teachers the sending one. Students may destroy theirs at any
 * step's end, with micro-batches that were never sent; teachers flush first.
 */
KD_MUST_USE kd_status kd_stream_create(kd_world *world,
                                       size_t message_bytes,
                                       int depth,
                                       uint64_t first_m,
                                       uint64_t end_m,
                                       kd_channel **channel_out);

#endif
