/*
 * stream_slots.c - requests are made when first used, since of the pairs of slot and peer that could be most may
 * never meet, and kept, since making one costs more than starting it.
 */
#include "comm/stream_slots.h"

#include <limits.h>
#include <stdlib.h>

#include "base/log.h"

#define BLOCK_BYTES  KD_ARENA_ALIGN /* messages are counted in these: past INT_MAX bytes too */
#define REQUESTS_MAX (1 << 20)      /* of one rank: far above any sensible job's             */

kd_status kd_slots_check(const kd_stream_settings *settings, int64_t n_ranks)
{
    const kd_message_plan *plan = settings->plan;
    KD_CHECK(plan->n_groups > 0 && settings->depth > 0);
    for (int g = 0; g < plan->n_groups; g++) {
        if (plan->groups[g].size_bytes > (size_t)INT_MAX * BLOCK_BYTES) {
            return kd_fail(
                KD_ERR_INVALID, "teachers.%d: a signal message of %zu bytes: expected at most %zu",
                settings->teacher, plan->groups[g].size_bytes, (size_t)INT_MAX * BLOCK_BYTES);
        }
    }
    if (settings->depth * n_ranks * plan->n_groups > REQUESTS_MAX ||
        plan->message_bytes > SIZE_MAX / 2 / (size_t)settings->depth) {
        return kd_fail(KD_ERR_INVALID,
                       "teachers.%d.stream_depth: found %d for messages of %zu bytes in %d groups "
                       "between %lld ranks: expected less",
                       settings->teacher, settings->depth, plan->message_bytes, plan->n_groups,
                       (long long)n_ranks);
    }
    return KD_OK;
}

/* The requests of a slot with the peer of its micro-batch, one for each group. */
static MPI_Request *requests_of(const kd_slots *s, const kd_slot *at)
{
    const int64_t i = at - s->at;
    const int64_t peer = (int64_t)(at->m % (uint64_t)s->n_peers);
    return s->requests + (i * s->n_peers + peer) * s->n_columns;
}

bool kd_slot_is_direct(const kd_slots *s, const kd_slot *at)
{
    return s->direct[at->m % (uint64_t)s->n_peers];
}

static bool has_group(uint64_t groups, int g)
{
    return (groups >> g & 1) != 0;
}

static kd_status make_request(const kd_slots *s, const kd_slot *at, int g, MPI_Request *request)
{
    const kd_signal_group *group = &s->plan.groups[g];
    const int count = (int)(group->size_bytes / BLOCK_BYTES);
    const int peer = s->first_peer + (int)(at->m % (uint64_t)s->n_peers);
    void *bytes = at->buffer + group->offset_bytes;
    if (s->role == KD_ROLE_STUDENT) {
        return kd_mpi_check(MPI_Recv_init(bytes, count, s->block, peer, g, s->comm, request),
                            "MPI_Recv_init");
    }
    return kd_mpi_check(MPI_Ssend_init(bytes, count, s->block, peer, g, s->comm, request),
                        "MPI_Ssend_init");
}

/* One without bytes, of a direct pair. */
static kd_status make_empty(const kd_slots *s, const kd_slot *at, int tag, MPI_Request *request)
{
    const int peer = s->first_peer + (int)(at->m % (uint64_t)s->n_peers);
    if (s->role == KD_ROLE_STUDENT) {
        return kd_mpi_check(MPI_Recv_init(NULL, 0, MPI_BYTE, peer, tag, s->comm, request),
                            "MPI_Recv_init");
    }
    return kd_mpi_check(MPI_Ssend_init(NULL, 0, MPI_BYTE, peer, tag, s->comm, request),
                        "MPI_Ssend_init");
}

static kd_status start_empty(const kd_slots *s, kd_slot *at, int column)
{
    MPI_Request *request = requests_of(s, at) + column;
    kd_status st = *request == MPI_REQUEST_NULL
                       ? make_empty(s, at, KD_SLOT_ROOM_TAG + column, request)
                       : KD_OK;
    if (!st) {
        st = kd_mpi_check(MPI_Start(request), "MPI_Start");
    }
    at->moving |= st ? 0 : UINT64_C(1) << column;
    return st;
}

static kd_status start_direct(const kd_slots *s, kd_slot *at)
{
    if (s->role == KD_ROLE_TEACHER) {
        return start_empty(s, at, at->has_room ? 1 : 0);
    }
    const kd_status st = start_empty(s, at, 0);
    return st ? st : start_empty(s, at, 1);
}

kd_status kd_slot_start(kd_slots *s, kd_slot *at)
{
    MPI_Request *requests = requests_of(s, at);
    at->state = KD_SLOT_MOVING;
    if (kd_slot_is_direct(s, at)) {
        return start_direct(s, at);
    }
    for (int g = 0; g < s->plan.n_groups; g++) {
        if (!has_group(at->groups, g)) {
            continue;
        }
        kd_status st =
            requests[g] == MPI_REQUEST_NULL ? make_request(s, at, g, &requests[g]) : KD_OK;
        if (!st) {
            st = kd_mpi_check(MPI_Start(&requests[g]), "MPI_Start");
        }
        if (st) {
            return st;
        }
        at->moving |= UINT64_C(1) << g;
    }
    return KD_OK;
}

kd_status kd_slot_test(kd_slots *s, kd_slot *at)
{
    int n_finished = 0, finished[KD_SIGNAL_GROUPS_MAX];
    const kd_status st = kd_mpi_check(
        MPI_Testsome(s->n_columns, requests_of(s, at), &n_finished, finished, MPI_STATUSES_IGNORE),
        "MPI_Testsome");
    if (st || n_finished == MPI_UNDEFINED) {
        return st;
    }
    for (int i = 0; i < n_finished; i++) {
        at->moving &= ~(UINT64_C(1) << finished[i]);
    }
    if (at->moving != 0) {
        return KD_OK;
    }
    if (s->role == KD_ROLE_TEACHER && kd_slot_is_direct(s, at) && !at->has_room) {
        at->has_room = true;
        at->state = KD_SLOT_LATE;
        kd_slot_carry(s, at, at->event);
        return KD_OK;
    }
    at->state = s->role == KD_ROLE_STUDENT ? KD_SLOT_FULL : KD_SLOT_FREE;
    return KD_OK;
}

void kd_slot_carry(kd_slots *s, kd_slot *at, kd_event after)
{
    const bool down = s->role == KD_ROLE_TEACHER, direct = kd_slot_is_direct(s, at);
    void *from = down ? at->message : at->buffer;
    void *to = !down ? at->message : direct ? at->there : at->buffer;
    const bool crosses = s->staged && (down || !direct);
    at->carried = crosses ? kd_message_carry(s->be, &s->plan, at->groups, to, from, after) : after;
}

bool kd_slot_is_free(kd_slot *at)
{
    if (at->state == KD_SLOT_LATE && kd_event_is_past(at->carried) && kd_event_is_past(at->event)) {
        at->state = KD_SLOT_FREE;
    }
    return at->state == KD_SLOT_FREE;
}

bool kd_slot_is_busy(const kd_slot *at)
{
    return at->state == KD_SLOT_MOVING || at->state == KD_SLOT_LATE;
}

/*
 * Takes back the receives that nothing will be sent for. Only those under way: Open MPI loses its lists
 * when it cancels a persistent request that was never started.
 */
static void cancel_receives(kd_slots *s)
{
    for (int i = 0; i < s->depth; i++) {
        const kd_slot *at = &s->at[i];
        for (int g = 0; at->state == KD_SLOT_MOVING && g < s->n_columns; g++) {
            if (has_group(at->moving, g)) {
                (void)MPI_Cancel(&requests_of(s, at)[g]);
                (void)MPI_Wait(&requests_of(s, at)[g], MPI_STATUS_IGNORE);
            }
        }
    }
}

static int n_requests(const kd_slots *s)
{
    return s->depth * s->n_peers * s->n_columns;
}

static kd_status take_memory(kd_slots *s)
{
    s->n_columns = s->plan.n_groups > 2 ? s->plan.n_groups : 2;
    s->at = calloc((size_t)s->depth, sizeof *s->at);
    s->requests = calloc((size_t)n_requests(s), sizeof(MPI_Request));
    s->direct = calloc((size_t)s->n_peers, sizeof *s->direct);
    s->shared = calloc((size_t)s->n_peers, sizeof *s->shared);
    for (int i = 0; s->requests != NULL && i < n_requests(s); i++) {
        s->requests[i] = MPI_REQUEST_NULL;
    }
    if (s->at == NULL || s->requests == NULL || s->direct == NULL || s->shared == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d signal messages", s->depth);
    }
    return KD_OK;
}

static kd_status take_slots(kd_slots *s, kd_memory kind, uint8_t **slots_out)
{
    void *memory = NULL;
    const kd_status st =
        kd_backend_place(s->be, kind, kd_message_plan_slots_bytes(&s->plan, s->depth), &memory,
                         "signals of %d micro-batches", s->depth);
    *slots_out = memory;
    return st;
}

/* Where operations have messages near, which may be MPI's buffers too. */
static kd_status take_messages(kd_slots *s)
{
    uint8_t **slots = s->staged ? &s->messages : &s->buffers;
    const kd_status st = take_slots(s, KD_MEMORY_DEVICE, slots);
    for (int i = 0; !st && i < s->depth; i++) {
        s->at[i].message = *slots + (size_t)i * s->plan.message_bytes;
    }
    return st;
}

/* MPI's, unless all peers are direct. */
static kd_status take_buffers(kd_slots *s)
{
    kd_status st = KD_OK;
    if (s->staged && s->n_direct < s->n_peers) {
        st = take_slots(s, KD_MEMORY_HOST, &s->buffers);
    }
    for (int i = 0; !st && s->buffers != NULL && i < s->depth; i++) {
        s->at[i].buffer = s->buffers + (size_t)i * s->plan.message_bytes;
    }
    return st;
}

static kd_status take_types(kd_slots *s, MPI_Comm comm)
{
    kd_status st = kd_mpi_check(MPI_Comm_dup(comm, &s->comm), "MPI_Comm_dup");
    if (!st) {
        st = kd_mpi_check(MPI_Type_contiguous(BLOCK_BYTES, MPI_BYTE, &s->block),
                          "MPI_Type_contiguous");
    }
    if (!st) {
        st = kd_mpi_check(MPI_Type_commit(&s->block), "MPI_Type_commit");
    }
    return st;
}

kd_status kd_slots_take(kd_slots *s, MPI_Comm comm)
{
    s->comm = MPI_COMM_NULL;
    s->block = MPI_DATATYPE_NULL;
    kd_status st = take_memory(s);
    if (!st) {
        st = take_messages(s);
    }
    if (!st) {
        st = take_types(s, comm);
    }
    if (!st) {
        st = kd_slots_share(s);
    }
    return st ? st : take_buffers(s);
}

void kd_slots_release(kd_slots *s)
{
    kd_backend_drain(s->be); /* what is queued may read or write the buffers */
    if (s->requests != NULL && s->at != NULL && s->role == KD_ROLE_STUDENT) {
        cancel_receives(s);
    }
    for (int i = 0; s->requests != NULL && i < n_requests(s); i++) {
        if (s->requests[i] != MPI_REQUEST_NULL) {
            (void)MPI_Request_free(&s->requests[i]);
        }
    }
    kd_slots_unshare(s);
    if (s->block != MPI_DATATYPE_NULL) {
        (void)MPI_Type_free(&s->block);
    }
    if (s->comm != MPI_COMM_NULL) {
        (void)MPI_Comm_free(&s->comm);
    }
    free(s->shared);
    free(s->direct);
    free(s->requests);
    free(s->at);
    s->be->ops->free(s->be, s->messages);
    s->be->ops->free(s->be, s->buffers);
}
