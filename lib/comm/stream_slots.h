/*
 * stream_slots.h - one side's messages of the signal stream: buffers, and the requests that move them. Private to
 * lib/comm.
 *
 * Memory. Where operations and MPI can use the same memory near, a message is in MPI's buffer from the start;
 * otherwise it lies in device memory for operations and in registered host memory for MPI, and a transfer
 * carries it between them: behind what writes it at a teacher, before what reads it at a student.
 *
 * A slot holds one micro-batch's message. Which slot, and which steps are open, is stream.c's; a slot knows its
 * micro-batch, its groups, and which of them are still under way. Requests are persistent, one for each slot, peer
 * and group.
 *
 * Threads: MPI's.
 */
#ifndef KD_COMM_STREAM_SLOTS_H
#define KD_COMM_STREAM_SLOTS_H

#include "comm/mpi_world.h"
#include "comm/stream.h"

typedef enum kd_slot_state {
    KD_SLOT_FREE,   /* teacher: may be filled; student: nothing left to receive       */
    KD_SLOT_OPEN,   /* teacher: between begin_send and end_send                       */
    KD_SLOT_MOVING, /* requests are under way                                         */
    KD_SLOT_FULL,   /* student: the message is here, until it is released             */
    KD_SLOT_LATE,   /* teacher: to be sent once `carried` is past; student: to be free
                       once `event` and `carried` are */
} kd_slot_state;

typedef struct kd_slot {
    kd_slot_state state;
    uint64_t m;       /* that it holds, but for KD_SLOT_FREE      */
    uint64_t groups;  /* of that micro-batch's step               */
    uint64_t moving;  /* those of them that are still under way   */
    uint8_t *buffer;  /* (plan.message_bytes) that MPI moves       */
    uint8_t *message; /* the same, for operations: often the same  */
    kd_event event;   /* student: behind what reads the message    */
    kd_event carried; /* of the transfer between buffer and message */
} kd_slot;

typedef struct kd_slots {
    /* The caller's to set before kd_slots_take(). */
    kd_role role;
    kd_backend *be; /* whose memory the buffers are      */
    kd_message_plan plan;
    int depth;
    bool staged;    /* messages lie apart from buffers */
    int n_peers;    /* ranks of the other side */
    int first_peer; /* of comm                 */

    MPI_Comm comm; /* of its own, so that nothing else can match */
    MPI_Datatype block;
    uint8_t *buffers;      /* (depth, message_bytes), the back end's                     */
    uint8_t *messages;     /* likewise, NULL unless staged                               */
    kd_slot *at;           /* (depth)                                                    */
    MPI_Request *requests; /* (depth, n_peers, n_groups); MPI_REQUEST_NULL: not used yet */
} kd_slots;

/*
 * Whether messages and requests are few and small enough for MPI: KD_ERR_INVALID, which names the teacher's field.
 * n_ranks: of both sides.
 */
KD_MUST_USE kd_status kd_slots_check(const kd_stream_settings *settings, int64_t n_ranks);

/* Collective over `comm`, which is duplicated. kd_slots_release() follows, also after a fault. */
KD_MUST_USE kd_status kd_slots_take(kd_slots *s, MPI_Comm comm);

/* A student's receives that are under way are taken back: nothing will be sent for them. */
void kd_slots_release(kd_slots *s);

/* Starts the sends or the receives of the slot's groups of micro-batch m; it is MOVING then. */
KD_MUST_USE kd_status kd_slot_start(kd_slots *s, kd_slot *at);

/* Queues the transfer of the slot's groups between buffer and message, after `after`; slot->carried is its end. */
void kd_slot_carry(kd_slots *s, kd_slot *at, kd_event after);

/* Of a MOVING slot: notes what is complete. All of it: FULL at a student, FREE at a teacher. */
KD_MUST_USE kd_status kd_slot_test(kd_slots *s, kd_slot *at);

/* Student: what has been read by now, by operations and the transfer, may be written again. */
bool kd_slot_is_free(kd_slot *at);

/* Its message is under way, or waits for the queue. */
bool kd_slot_is_busy(const kd_slot *at);

#endif
