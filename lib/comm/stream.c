/*
 * stream.c - slots, requests and open steps of the signal stream.
 *
 * A slot waits for nobody but its own messages and its place in the back end's queue, and each side numbers
 * its slots by itself: only the order in which sends and receives start must be the same. Requests are made
 * when first used, since of the pairs of slot and peer that could be most may never meet.
 */
#include "comm/stream.h"

#include <limits.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/mpi_world.h"
#include "distill/open_steps.h"

#define BLOCK_BYTES  KD_ARENA_ALIGN /* messages are counted in these: past INT_MAX bytes too */
#define REQUESTS_MAX (1 << 20)      /* of one rank: far above any sensible job's             */

/* A wait only yields this long, plus a nanosecond per byte: the time of a slow transfer. */
#define PATIENCE_NS 10000000u

typedef enum slot_state {
    SLOT_FREE,   /* teacher: may be filled; student: nothing left to receive       */
    SLOT_OPEN,   /* teacher: between begin_send and end_send                       */
    SLOT_MOVING, /* requests are under way                                         */
    SLOT_FULL,   /* student: the message is here, until it is released             */
    SLOT_LATE,   /* teacher: to be sent, student: to be free, once `event` is past */
} slot_state;

typedef struct slot {
    slot_state state;
    uint64_t m;      /* that it holds, but for SLOT_FREE         */
    uint64_t groups; /* of that micro-batch's step               */
    uint64_t moving; /* those of them that are still under way   */
    uint8_t *buffer; /* (plan.message_bytes)                     */
    kd_event event;  /* of SLOT_LATE                             */
} slot;

typedef struct stream {
    kd_channel channel; /* first: what the operations are given */
    MPI_Comm comm;      /* of its own, so that nothing else can match */
    MPI_Datatype block;
    kd_role role;
    kd_backend *be;
    kd_message_plan plan;
    kd_open_steps steps;
    int depth;
    int n_peers;     /* ranks of the other side                                     */
    int first_peer;  /* of comm                                                     */
    uint64_t stride; /* this rank's micro-batches are m mod stride == own           */
    uint64_t own;
    bool begun;            /* a step was opened                                           */
    uint64_t next_m;       /* to begin_send or to receive                                 */
    uint64_t next_post;    /* student: to start a receive for                             */
    uint64_t n_begun;      /* messages begun or received so far: the slot is that mod depth */
    uint64_t n_posted;     /* likewise, those whose sends or receives were started        */
    uint8_t *buffers;      /* (depth, message_bytes), the back end's                      */
    slot *slots;           /* (depth) */
    MPI_Request *requests; /* (depth, n_peers, n_groups); MPI_REQUEST_NULL: not used yet */
    kd_status fault;       /* of a progress() that could not return it */
} stream;

/* The requests of a slot with the peer of its micro-batch, one for each group. */
static MPI_Request *requests_of(const stream *s, const slot *at)
{
    const int64_t i = at - s->slots;
    const int64_t peer = (int64_t)(at->m % (uint64_t)s->n_peers);
    return s->requests + (i * s->n_peers + peer) * s->plan.n_groups;
}

static bool has_group(uint64_t groups, int g)
{
    return (groups >> g & 1) != 0;
}

/* The first m from `from` on that is this rank's. */
static uint64_t first_of_rank(const stream *s, uint64_t from)
{
    return from + (s->own + s->stride - from % s->stride) % s->stride;
}

static kd_status make_request(const stream *s, const slot *at, int g, MPI_Request *request)
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

/* Starts the sends or the receives of the slot's micro-batch. */
static kd_status start(stream *s, slot *at)
{
    MPI_Request *requests = requests_of(s, at);
    at->state = SLOT_MOVING;
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

static kd_status test_slot(stream *s, slot *at)
{
    int n_finished = 0, finished[KD_SIGNAL_GROUPS_MAX];
    const kd_status st = kd_mpi_check(MPI_Testsome(s->plan.n_groups, requests_of(s, at),
                                                   &n_finished, finished, MPI_STATUSES_IGNORE),
                                      "MPI_Testsome");
    if (st || n_finished == MPI_UNDEFINED) {
        return st;
    }
    for (int i = 0; i < n_finished; i++) {
        at->moving &= ~(UINT64_C(1) << finished[i]);
    }
    if (at->moving == 0) {
        at->state = s->role == KD_ROLE_STUDENT ? SLOT_FULL : SLOT_FREE;
        s->channel.bytes_moved += kd_message_plan_bytes(&s->plan, at->groups);
        s->channel.messages_moved++;
    }
    return KD_OK;
}

/* Student: what the queue has read by now may be written again. */
static bool is_free(slot *at)
{
    if (at->state == SLOT_LATE && kd_event_is_past(at->event)) {
        at->state = SLOT_FREE;
    }
    return at->state == SLOT_FREE;
}

/* Student: starts receives while there are free slots and open steps that want them. */
static kd_status post(stream *s)
{
    for (;;) {
        const kd_open_step *step = kd_open_steps_find(&s->steps, s->next_post);
        slot *at = &s->slots[s->n_posted % (uint64_t)s->depth];
        if (step == NULL || (step->groups != 0 && !is_free(at))) {
            return KD_OK;
        }
        if (step->groups != 0) {
            at->m = s->next_post;
            at->groups = step->groups;
            const kd_status st = start(s, at);
            if (st) {
                return st;
            }
            s->n_posted++;
        }
        s->next_post += s->stride;
    }
}

/* Teacher: starts the sends that the queue has written, in their order. */
static kd_status send_written(stream *s)
{
    while (s->n_posted < s->n_begun) {
        slot *at = &s->slots[s->n_posted % (uint64_t)s->depth];
        if (!kd_event_is_past(at->event)) {
            return KD_OK;
        }
        kd_status st = kd_backend_tell_fault(s->be);
        if (!st) {
            st = start(s, at);
        }
        if (st) {
            return st;
        }
        s->n_posted++;
    }
    return KD_OK;
}

/* Lets messages move, notes those that are complete and starts those that have become ready. */
static kd_status advance(stream *s)
{
    for (int i = 0; !s->fault && i < s->depth; i++) {
        if (s->slots[i].state == SLOT_MOVING) {
            s->fault = test_slot(s, &s->slots[i]);
        }
    }
    if (!s->fault) {
        s->fault = s->role == KD_ROLE_STUDENT ? post(s) : send_written(s);
    }
    return s->fault;
}

static bool is_busy(const slot *at)
{
    return at->state == SLOT_MOVING || at->state == SLOT_LATE;
}

static kd_status wait_while_busy(stream *s, const slot *at)
{
    const uint64_t start_ns = kd_clock_monotonic_ns();
    const uint64_t patience_ns = PATIENCE_NS + s->plan.message_bytes;

    kd_status st = advance(s);
    if (st || !is_busy(at)) {
        return st;
    }
    uint64_t waited_ns = 0;
    do {
        kd_mpi_pause(waited_ns, patience_ns);
        st = advance(s);
        waited_ns = kd_clock_monotonic_ns() - start_ns;
    } while (!st && is_busy(at));
    s->channel.stall_ns += waited_ns;
    return st;
}

/* Teacher: past the steps that nothing is sent in, so that they take no room. */
static void pass_empty_steps(stream *s)
{
    const kd_open_step *step = kd_open_steps_find(&s->steps, s->next_m);
    while (step != NULL && step->groups == 0) {
        s->next_m = first_of_rank(s, step->end_m);
        step = kd_open_steps_find(&s->steps, s->next_m);
    }
    kd_open_steps_pass(&s->steps, s->next_m);
}

static kd_status open_step(kd_channel *channel, uint64_t first_m, uint64_t end_m, uint64_t groups)
{
    stream *s = (stream *)channel;
    const kd_open_step step = {first_m, end_m, groups};
    if (s->plan.n_groups < KD_SIGNAL_GROUPS_MAX && groups >> s->plan.n_groups != 0) {
        return kd_fail(KD_ERR_PROTO, "micro-batch %llu: found groups %llx, expected those of %d",
                       (unsigned long long)first_m, (unsigned long long)groups, s->plan.n_groups);
    }
    const kd_status st = kd_open_steps_add(&s->steps, &step);
    if (st) {
        return st;
    }
    if (!s->begun) {
        s->begun = true;
        s->next_m = s->next_post = first_of_rank(s, first_m);
    }
    if (s->role == KD_ROLE_STUDENT) {
        return post(s);
    }
    pass_empty_steps(s);
    return KD_OK;
}

/* The open step of this rank's next micro-batch, which must be m. */
static kd_status step_of(stream *s, uint64_t m, kd_open_step *step_out)
{
    const kd_open_step *step = kd_open_steps_find(&s->steps, m);
    if (step == NULL) {
        return kd_fail(KD_ERR_STATE, "micro-batch %llu: its step is not open",
                       (unsigned long long)m);
    }
    KD_CHECK(m == s->next_m);
    *step_out = *step;
    return KD_OK;
}

static kd_status begin_send(kd_channel *channel, uint64_t m, void **message_out)
{
    stream *s = (stream *)channel;
    kd_open_step step = {0};
    KD_CHECK(s->role == KD_ROLE_TEACHER);
    kd_status st = step_of(s, m, &step);
    if (st) {
        return st;
    }
    KD_CHECK(step.groups != 0);
    slot *at = &s->slots[s->n_begun % (uint64_t)s->depth];
    st = wait_while_busy(s, at);
    if (st) {
        return st;
    }
    KD_CHECK(at->state == SLOT_FREE);
    at->state = SLOT_OPEN;
    at->m = m;
    at->groups = step.groups;
    *message_out = at->buffer;
    return KD_OK;
}

static kd_status end_send(kd_channel *channel, uint64_t m, kd_event ready)
{
    stream *s = (stream *)channel;
    slot *at = &s->slots[s->n_begun % (uint64_t)s->depth];
    KD_CHECK(s->role == KD_ROLE_TEACHER && at->state == SLOT_OPEN && at->m == m);
    at->state = SLOT_LATE;
    at->event = ready;
    s->n_begun++;
    s->next_m = m + s->stride;
    pass_empty_steps(s);
    return send_written(s);
}

static kd_status flush(kd_channel *channel)
{
    stream *s = (stream *)channel;
    for (int i = 0; i < s->depth; i++) {
        const kd_status st = wait_while_busy(s, &s->slots[i]);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status receive(kd_channel *channel, uint64_t m, void **message_out)
{
    stream *s = (stream *)channel;
    kd_open_step step = {0};
    void *message = NULL;
    KD_CHECK(s->role == KD_ROLE_STUDENT);
    kd_status st = step_of(s, m, &step);
    if (st) {
        return st;
    }
    if (step.groups != 0) {
        slot *at = &s->slots[s->n_begun % (uint64_t)s->depth];
        KD_CHECK(at->state != SLOT_FULL || at->m == m);
        st = wait_while_busy(s, at);
        if (st) {
            return st;
        }
        KD_CHECK(at->state == SLOT_FULL && at->m == m);
        message = at->buffer;
        s->n_begun++;
    }
    s->next_m = m + s->stride;
    kd_open_steps_pass(&s->steps, s->next_m);
    *message_out = message;
    return KD_OK;
}

static kd_status release(kd_channel *channel, uint64_t m, kd_event done)
{
    stream *s = (stream *)channel;
    KD_CHECK(s->role == KD_ROLE_STUDENT && m < s->next_m);
    for (int i = 0; i < s->depth; i++) {
        if (s->slots[i].state == SLOT_FULL && s->slots[i].m == m) {
            s->slots[i].state = SLOT_LATE;
            s->slots[i].event = done;
            return post(s);
        }
    }
    return KD_OK; /* its step had no groups */
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
    for (int i = 0; i < s->depth; i++) {
        const slot *at = &s->slots[i];
        for (int g = 0; at->state == SLOT_MOVING && g < s->plan.n_groups; g++) {
            if (has_group(at->moving, g)) {
                (void)MPI_Cancel(&requests_of(s, at)[g]);
                (void)MPI_Wait(&requests_of(s, at)[g], MPI_STATUS_IGNORE);
            }
        }
    }
}

static int n_requests(const stream *s)
{
    return s->depth * s->n_peers * s->plan.n_groups;
}

static void destroy(kd_channel *channel)
{
    stream *s = (stream *)channel;
    kd_backend_drain(s->be); /* what is queued may read or write the buffers */
    if (s->requests != NULL && s->slots != NULL && s->role == KD_ROLE_STUDENT) {
        cancel_receives(s);
    }
    for (int i = 0; s->requests != NULL && i < n_requests(s); i++) {
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
    kd_open_steps_release(&s->steps);
    free(s->requests);
    free(s->slots);
    s->be->ops->free(s->be, s->buffers);
    free(s);
}

static const kd_channel_ops stream_ops = {
    .open_step = open_step,
    .begin_send = begin_send,
    .end_send = end_send,
    .flush = flush,
    .receive = receive,
    .release = release,
    .progress = progress,
    .destroy = destroy,
};

static kd_status check_sizes(const kd_world *world, const kd_stream_settings *settings)
{
    const kd_message_plan *plan = settings->plan;
    const int64_t n_peers = kd_world_students(world) + kd_world_replicas(world, settings->teacher);
    KD_CHECK(plan->n_groups > 0 && settings->depth > 0 && settings->n_steps > 0);
    for (int g = 0; g < plan->n_groups; g++) {
        if (plan->groups[g].size_bytes > (size_t)INT_MAX * BLOCK_BYTES) {
            return kd_fail(
                KD_ERR_INVALID, "teachers.%d: a signal message of %zu bytes: expected at most %zu",
                settings->teacher, plan->groups[g].size_bytes, (size_t)INT_MAX * BLOCK_BYTES);
        }
    }
    if (settings->depth * n_peers * plan->n_groups > REQUESTS_MAX ||
        plan->message_bytes > SIZE_MAX / 2 / (size_t)settings->depth) {
        return kd_fail(KD_ERR_INVALID,
                       "teachers.%d.stream_depth: found %d for messages of %zu bytes in %d groups "
                       "between %lld ranks: expected less",
                       settings->teacher, settings->depth, plan->message_bytes, plan->n_groups,
                       (long long)n_peers);
    }
    return KD_OK;
}

static kd_status take_memory(stream *s, int n_steps)
{
    s->slots = calloc((size_t)s->depth, sizeof *s->slots);
    s->requests = calloc((size_t)n_requests(s), sizeof(MPI_Request));
    for (int i = 0; s->requests != NULL && i < n_requests(s); i++) {
        s->requests[i] = MPI_REQUEST_NULL;
    }
    if (s->slots == NULL || s->requests == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d signal messages", s->depth);
    }
    s->buffers =
        s->be->ops->alloc(s->be, KD_MEMORY_HOST, kd_message_plan_slots_bytes(&s->plan, s->depth));
    if (s->buffers == NULL) {
        return KD_ERR_NOMEM;
    }
    for (int i = 0; i < s->depth; i++) {
        s->slots[i].buffer = s->buffers + (size_t)i * s->plan.message_bytes;
    }
    return kd_open_steps_init(&s->steps, n_steps);
}

static kd_status init_types(stream *s, MPI_Comm comm)
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

static void set_sides(stream *s, const kd_world *world, int teacher)
{
    const bool student = kd_world_role(world) == KD_ROLE_STUDENT;
    const int n_students = kd_world_students(world);
    const int n_replicas = kd_world_replicas(world, teacher);
    s->role = kd_world_role(world);
    s->own = (uint64_t)kd_world_role_rank(world);
    s->stride = (uint64_t)(student ? n_students : n_replicas);
    s->n_peers = student ? n_replicas : n_students;
    s->first_peer = student ? n_students : 0;
}

kd_status
kd_stream_create(kd_world *world, const kd_stream_settings *settings, kd_channel **channel_out)
{
    const kd_lesson *lesson = &world->lessons[settings->teacher];
    KD_CHECK(lesson->n_replicas > 0 && lesson->comm != MPI_COMM_NULL);
    kd_status st = check_sizes(world, settings);
    if (st) {
        return st;
    }
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a signal stream");
    }
    s->channel.ops = &stream_ops;
    s->comm = MPI_COMM_NULL;
    s->block = MPI_DATATYPE_NULL;
    s->be = settings->be;
    s->depth = settings->depth;
    s->plan = *settings->plan;
    set_sides(s, world, settings->teacher);
    st = take_memory(s, settings->n_steps);
    if (!st) {
        st = init_types(s, lesson->comm);
    }
    if (st) {
        destroy(&s->channel);
        return st;
    }
    *channel_out = &s->channel;
    return KD_OK;
}
