#include "comm/stream.h"

#include <limits.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/log.h"
#include "comm/mpi_world.h"

#define STREAM_TAG  1
#define BLOCK_BYTES KD_ARENA_ALIGN /* messages are counted in these: past INT_MAX bytes too */

/* A wait only yields this long, plus a nanosecond per byte: the time of a slow transfer. */
#define PATIENCE_NS 10000000u

typedef enum slot_state {
    SLOT_FREE,   /* teacher: may be filled; student: nothing left to receive       */
    SLOT_OPEN,   /* teacher: between begin_send and end_send                       */
    SLOT_MOVING, /* a request is under way                                         */
    SLOT_FULL,   /* student: the message is here, until it is released             */
} slot_state;

typedef struct stream {
    kd_channel channel; /* first: what the operations are given */
    MPI_Comm comm;      /* of its own, so that nothing else can match */
    MPI_Datatype block;
    kd_role role;
    int depth;
    int n_peers;      /* ranks of the other role                                    */
    uint64_t first_m; /* of this rank; its others follow every `stride`             */
    uint64_t stride;
    uint64_t end_m;
    uint64_t next_m; /* to begin_send or to receive */
    size_t message_bytes;
    size_t slot_bytes; /* rounded up to blocks */
    uint8_t *buffers;  /* (depth, slot_bytes)  */
    slot_state *states;
    MPI_Request *requests; /* (depth, n_peers), persistent                             */
    int *started;          /* (depth): the request started last, while a slot is moving */
    int *finished;         /* (depth * n_peers), of MPI_Testsome */
    kd_status fault;       /* of a progress() that could not return it */
} stream;

static int slot_of(const stream *s, uint64_t m)
{
    KD_CHECK(m >= s->first_m && m < s->end_m && (m - s->first_m) % s->stride == 0);
    return (int)((m - s->first_m) / s->stride % (uint64_t)s->depth);
}

static void *buffer_of(const stream *s, int slot)
{
    return s->buffers + (size_t)slot * s->slot_bytes;
}

/* Starts the send or the receive of m in its slot. */
static kd_status start(stream *s, uint64_t m)
{
    const int slot = slot_of(s, m);
    const int request = slot * s->n_peers + (int)(m % (uint64_t)s->n_peers);
    const kd_status st = kd_mpi_check(MPI_Start(&s->requests[request]), "MPI_Start");
    if (!st) {
        s->states[slot] = SLOT_MOVING;
        s->started[slot] = request;
    }
    return st;
}

/* Lets messages move and notes those that are complete. */
static kd_status advance(stream *s)
{
    int n_finished = 0;
    if (s->fault) {
        return s->fault;
    }
    const int code = MPI_Testsome(s->depth * s->n_peers, s->requests, &n_finished, s->finished,
                                  MPI_STATUSES_IGNORE);
    s->fault = kd_mpi_check(code, "MPI_Testsome");
    if (s->fault || n_finished == MPI_UNDEFINED) {
        return s->fault;
    }
    for (int i = 0; i < n_finished; i++) {
        const int slot = s->finished[i] / s->n_peers;
        s->states[slot] = s->role == KD_ROLE_STUDENT ? SLOT_FULL : SLOT_FREE;
        s->channel.bytes_moved += s->message_bytes;
        s->channel.messages_moved++;
    }
    return KD_OK;
}

static kd_status wait_while_moving(stream *s, int slot)
{
    const uint64_t start_ns = kd_clock_monotonic_ns();
    const uint64_t patience_ns = PATIENCE_NS + s->message_bytes;

    kd_status st = advance(s);
    if (st || s->states[slot] != SLOT_MOVING) {
        return st;
    }
    uint64_t waited_ns = 0;
    do {
        kd_mpi_pause(waited_ns, patience_ns);
        st = advance(s);
        waited_ns = kd_clock_monotonic_ns() - start_ns;
    } while (!st && s->states[slot] == SLOT_MOVING);
    s->channel.stall_ns += waited_ns;
    return st;
}

static kd_status begin_send(kd_channel *channel, uint64_t m, void **buffer_out)
{
    stream *s = (stream *)channel;
    KD_CHECK(s->role == KD_ROLE_TEACHER && m == s->next_m);
    const int slot = slot_of(s, m);
    const kd_status st = wait_while_moving(s, slot);
    if (st) {
        return st;
    }
    KD_CHECK(s->states[slot] == SLOT_FREE);
    s->states[slot] = SLOT_OPEN;
    *buffer_out = buffer_of(s, slot);
    return KD_OK;
}

static kd_status end_send(kd_channel *channel, uint64_t m)
{
    stream *s = (stream *)channel;
    KD_CHECK(s->role == KD_ROLE_TEACHER && m == s->next_m);
    KD_CHECK(s->states[slot_of(s, m)] == SLOT_OPEN);
    s->next_m += s->stride;
    return start(s, m);
}

static kd_status flush(kd_channel *channel)
{
    stream *s = (stream *)channel;
    for (int slot = 0; slot < s->depth; slot++) {
        const kd_status st = wait_while_moving(s, slot);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status receive(kd_channel *channel, uint64_t m, void **message_out)
{
    stream *s = (stream *)channel;
    KD_CHECK(s->role == KD_ROLE_STUDENT && m == s->next_m);
    const int slot = slot_of(s, m);
    const kd_status st = wait_while_moving(s, slot);
    if (st) {
        return st;
    }
    KD_CHECK(s->states[slot] == SLOT_FULL);
    s->next_m += s->stride;
    *message_out = buffer_of(s, slot);
    return KD_OK;
}

static kd_status release(kd_channel *channel, uint64_t m)
{
    stream *s = (stream *)channel;
    const int slot = slot_of(s, m);
    KD_CHECK(s->role == KD_ROLE_STUDENT && m < s->next_m && s->states[slot] == SLOT_FULL);
    s->states[slot] = SLOT_FREE;
    const uint64_t next = m + s->stride * (uint64_t)s->depth;
    return next < s->end_m ? start(s, next) : KD_OK;
}

static void progress(kd_channel *channel)
{
    stream *s = (stream *)channel;
    const kd_status st = advance(s);
    (void)st; /* kept in s->fault for the next call that can return it */
}

/*
 * Takes back the receives that nothing will be sent for. Only those under way: Open MPI loses its lists
 * when it cancels a persistent request that was never started.
 */
static void cancel_receives(stream *s)
{
    for (int slot = 0; slot < s->depth; slot++) {
        if (s->states[slot] == SLOT_MOVING) {
            (void)MPI_Cancel(&s->requests[s->started[slot]]);
            (void)MPI_Wait(&s->requests[s->started[slot]], MPI_STATUS_IGNORE);
        }
    }
}

static void destroy(kd_channel *channel)
{
    stream *s = (stream *)channel;
    if (s->requests != NULL && s->role == KD_ROLE_STUDENT) {
        cancel_receives(s);
    }
    for (int i = 0; s->requests != NULL && i < s->depth * s->n_peers; i++) {
        if (s->requests[i] != MPI_REQUEST_NULL) {
            (void)MPI_Request_free(&s->requests[i]);
        }
    }
    if (s->block != MPI_DATATYPE_NULL) {
        (void)MPI_Type_free(&s->block);
    }
    if (s->comm != MPI_COMM_NULL) {
        (void)MPI_Comm_free(&s->comm);
    }
    free(s->finished);
    free(s->started);
    free(s->requests);
    free(s->states);
    free(s->buffers);
    free(s);
}

static const kd_channel_ops stream_ops = {
    .begin_send = begin_send,
    .end_send = end_send,
    .flush = flush,
    .receive = receive,
    .release = release,
    .progress = progress,
    .destroy = destroy,
};

static kd_status take_memory(stream *s)
{
    const size_t n_requests = (size_t)s->depth * (size_t)s->n_peers;
    s->buffers = aligned_alloc(KD_ARENA_ALIGN, (size_t)s->depth * s->slot_bytes);
    s->states = calloc((size_t)s->depth, sizeof *s->states);
    s->requests = malloc(n_requests * sizeof *s->requests);
    s->started = malloc((size_t)s->depth * sizeof *s->started);
    s->finished = malloc(n_requests * sizeof *s->finished);
    for (size_t i = 0; s->requests != NULL && i < n_requests; i++) {
        s->requests[i] = MPI_REQUEST_NULL;
    }
    if (s->buffers == NULL || s->states == NULL || s->requests == NULL || s->started == NULL ||
        s->finished == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d signal messages of %zu bytes", s->depth,
                       s->message_bytes);
    }
    return KD_OK;
}

static kd_status init_request(stream *s, int slot, int peer, int peer_rank)
{
    const int count = (int)(s->slot_bytes / BLOCK_BYTES);
    MPI_Request *request = &s->requests[slot * s->n_peers + peer];
    if (s->role == KD_ROLE_STUDENT) {
        return kd_mpi_check(MPI_Recv_init(buffer_of(s, slot), count, s->block, peer_rank,
                                          STREAM_TAG, s->comm, request),
                            "MPI_Recv_init");
    }
    return kd_mpi_check(MPI_Ssend_init(buffer_of(s, slot), count, s->block, peer_rank, STREAM_TAG,
                                       s->comm, request),
                        "MPI_Ssend_init");
}

static kd_status init_requests(stream *s, int first_peer_rank)
{
    for (int i = 0; i < s->depth * s->n_peers; i++) {
        const int peer = i % s->n_peers;
        const kd_status st = init_request(s, i / s->n_peers, peer, first_peer_rank + peer);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status init_types(stream *s, const kd_world *world)
{
    kd_status st = kd_mpi_check(MPI_Comm_dup(world->everyone, &s->comm), "MPI_Comm_dup");
    if (!st) {
        st = kd_mpi_check(MPI_Type_contiguous(BLOCK_BYTES, MPI_BYTE, &s->block),
                          "MPI_Type_contiguous");
    }
    if (!st) {
        st = kd_mpi_check(MPI_Type_commit(&s->block), "MPI_Type_commit");
    }
    return st;
}

static kd_status post_first_receives(stream *s)
{
    for (uint64_t i = 0; i < (uint64_t)s->depth; i++) {
        const uint64_t m = s->first_m + i * s->stride;
        const kd_status st = m < s->end_m ? start(s, m) : KD_OK;
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

/* The first m from `from` on with m mod n == rank. */
static uint64_t first_of_rank(uint64_t from, uint64_t n, uint64_t rank)
{
    return from + (rank + n - from % n) % n;
}

kd_status kd_stream_create(kd_world *world,
                           size_t message_bytes,
                           int depth,
                           uint64_t first_m,
                           uint64_t end_m,
                           kd_channel **channel_out)
{
    KD_CHECK(world->n_teachers > 0 && message_bytes > 0 && depth > 0);
    if (message_bytes > (size_t)INT_MAX * BLOCK_BYTES) {
        return kd_fail(KD_ERR_INVALID, "a signal message of %zu bytes: expected at most %zu",
                       message_bytes, (size_t)INT_MAX * BLOCK_BYTES);
    }
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a signal stream");
    }
    const bool student = kd_world_role(world) == KD_ROLE_STUDENT;
    const int n_own = student ? world->n_students : world->n_teachers;
    s->channel.ops = &stream_ops;
    s->comm = MPI_COMM_NULL;
    s->block = MPI_DATATYPE_NULL;
    s->role = kd_world_role(world);
    s->depth = depth;
    s->n_peers = student ? world->n_teachers : world->n_students;
    s->stride = (uint64_t)n_own;
    s->first_m = first_of_rank(first_m, s->stride, (uint64_t)kd_world_role_rank(world));
    s->next_m = s->first_m;
    s->end_m = end_m;
    s->message_bytes = message_bytes;
    s->slot_bytes = (message_bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES;

    kd_status st = take_memory(s);
    if (!st) {
        st = init_types(s, world);
    }
    if (!st) {
        st = init_requests(s, student ? world->n_students : 0);
    }
    if (!st && student) {
        st = post_first_receives(s);
    }
    if (st) {
        destroy(&s->channel);
        return st;
    }
    *channel_out = &s->channel;
    return KD_OK;
}
