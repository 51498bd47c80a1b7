/*
 * stream_slots.h - one side's messages of the signal stream: buffers, and the requests that move them. Private to
 * lib/comm.
 *
 * Memory. Where operations and MPI can use the same memory near, a message is in MPI's buffer from the start;
 * otherwise it lies in device memory for operations and in registered host memory for MPI, and a transfer
 * carries it between them: behind what writes it at a teacher, before what reads it at a student.
 *
 * Within a host a student's device memory may be a replica's to write (stream_share.c): such a pair is direct. The
 * replica asks for room by an empty synchronous message, which completes when the student has posted its slot, has
 * a transfer write into that slot, and says by another empty message that it is there.
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

/* Of a direct pair; smaller ones are those of groups. */
enum { KD_SLOT_ROOM_TAG = KD_SIGNAL_GROUPS_MAX, KD_SLOT_THERE_TAG, KD_SLOT_TAGS };

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
    uint8_t *there;   /* of a direct pair, teacher: its place at the student */
    bool has_room;    /* likewise: the student has posted that place         */
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
    int number;     /* of this rank, on its side       */
    bool staged;    /* messages lie apart from buffers */
    bool is_open;   /* set once all ranks have them    */
    int n_peers;    /* ranks of the other side */
    int first_peer; /* of comm                 */

    MPI_Comm comm; /* of its own, so that nothing else can match */
    MPI_Datatype block;
    uint8_t *buffers;      /* (depth, message_bytes), the back end's                     */
    uint8_t *messages;     /* likewise, NULL unless staged                               */
    kd_slot *at;           /* (depth)                                                    */
    bool *direct;          /* (n_peers)                                                  */
    uint8_t **shared;      /* (n_peers), teacher: (depth, message_bytes) of direct ones  */
    int n_direct;          /* peers of this rank                                         */
    int n_shared;          /* of all ranks                                               */
    int n_columns;         /* of requests: for groups, or the messages of a direct pair  */
    MPI_Request *requests; /* (depth, n_peers, n_columns); MPI_REQUEST_NULL: not used yet */
} kd_slots;

/*
 * Whether messages and requests are few and small enough for MPI: KD_ERR_INVALID, which names the teacher's field.
 * n_ranks: of both sides.
 */
KD_MUST_USE kd_status kd_slots_check(const kd_stream_settings *settings, int64_t n_ranks);

/* Private to the slots, collective: finds the direct pairs; and ends them, before a student frees its memory. */
KD_MUST_USE kd_status kd_slots_share(kd_slots *s);
void kd_slots_unshare(kd_slots *s);

/* Collective over `comm`, which is duplicated. kd_slots_release() follows, also after a fault. */
KD_MUST_USE kd_status kd_slots_take(kd_slots *s, MPI_Comm comm);

/* A student's receives that are under way are taken back: nothing will be sent for them. Collective where
 * there are direct pairs and they are open. */
void kd_slots_release(kd_slots *s);

bool kd_slot_is_direct(const kd_slots *s, const kd_slot *at);

/* Starts the sends or the receives of the slot's groups of micro-batch m; it is MOVING then. Of a direct pair:
 * a teacher's next message, that asks or that says it is there. */
KD_MUST_USE kd_status kd_slot_start(kd_slots *s, kd_slot *at);

/* Queues the transfer of the slot's groups between buffer and message, after `after`; slot->carried is its end. */
void kd_slot_carry(kd_slots *s, kd_slot *at, kd_event after);

/* Of a MOVING slot: notes what is complete. All of it: FULL at a student, FREE at a teacher, or LATE, being
 * carried, where the student has room. */
KD_MUST_USE kd_status kd_slot_test(kd_slots *s, kd_slot *at);

/* Student: what has been read by now, by operations and the transfer, may be written again. */
bool kd_slot_is_free(kd_slot *at);

/* Its message is under way, or waits for the queue. */
bool kd_slot_is_busy(const kd_slot *at);

#endif
