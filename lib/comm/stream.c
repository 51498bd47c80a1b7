/*
 * stream.c - which micro-batch is in which slot, and when its message may move.
 *
 * A slot waits for nobody but its own messages and its place in the back end's queue, and each side numbers
 * its slots by itself: only the order in which sends and receives start must be the same.
 */
#include "comm/stream.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/mpi_world.h"
#include "comm/stream_slots.h"
#include "distill/open_steps.h"

/* A wait only yields this long, plus a nanosecond per byte: the time of a slow transfer. */
#define PATIENCE_NS 10000000u

typedef struct stream {
    kd_channel channel; /* first: what the operations are given */
    kd_slots slots;
    kd_open_steps steps;
    uint64_t stride; /* this rank's micro-batches are m mod stride == own */
    uint64_t own;
    bool begun;         /* a step was opened                                             */
    uint64_t next_m;    /* to begin_send or to receive                                   */
    uint64_t next_post; /* student: to start a receive for                               */
    uint64_t n_begun;   /* messages begun or received so far: the slot is that mod depth */
    uint64_t n_posted;  /* likewise, those whose sends or receives were started          */
    uint64_t counted_m; /* teacher: up to which messages are counted in n_before         */
    uint64_t *n_before; /* teacher: (n_peers) messages of each student before it         */
    kd_status fault;    /* of a progress() that could not return it                      */
} stream;

/* The slot of the n-th message of this rank. */
static kd_slot *slot_of(const stream *s, uint64_t n)
{
    return &s->slots.at[n % (uint64_t)s->slots.depth];
}

/* The first m from `from` on that is this rank's. */
static uint64_t first_of_rank(const stream *s, uint64_t from)
{
    return from + (s->own + s->stride - from % s->stride) % s->stride;
}

/* Student: starts receives while there are free slots and open steps that want them. */
static kd_status post(stream *s)
{
    for (;;) {
        const kd_open_step *step = kd_open_steps_find(&s->steps, s->next_post);
        kd_slot *at = slot_of(s, s->n_posted);
        if (step == NULL || (step->groups != 0 && !kd_slot_is_free(at))) {
            return KD_OK;
        }
        if (step->groups != 0) {
            at->m = s->next_post;
            at->groups = step->groups;
            const kd_status st = kd_slot_start(&s->slots, at);
            if (st) {
                return st;
            }
            s->n_posted++;
        }
        s->next_post += s->stride;
    }
}

/* An earlier message to the same student has not been sent, or said to be there. */
static bool has_one_before(const stream *s, uint64_t n)
{
    const uint64_t n_peers = (uint64_t)s->slots.n_peers, peer = slot_of(s, n)->m % n_peers;
    for (uint64_t i = s->n_posted; i < n; i++) {
        const kd_slot *before = slot_of(s, i);
        if (before->m % n_peers == peer &&
            (before->state == KD_SLOT_LATE ||
             (before->state == KD_SLOT_MOVING && kd_slot_is_direct(&s->slots, before) &&
              !before->has_room))) {
            return true;
        }
    }
    return false;
}

/* Nothing is left to be started of it. */
static bool is_posted(const stream *s, const kd_slot *at)
{
    return at->state == KD_SLOT_FREE ||
           (at->state == KD_SLOT_MOVING && (!kd_slot_is_direct(&s->slots, at) || at->has_room));
}

/* Teacher: starts the sends that the queue has written, to each student in their order. */
static kd_status send_written(stream *s)
{
    for (uint64_t n = s->n_posted; n < s->n_begun; n++) {
        kd_slot *at = slot_of(s, n);
        if (at->state != KD_SLOT_LATE || has_one_before(s, n) || !kd_event_is_past(at->carried)) {
            continue;
        }
        kd_status st = kd_backend_tell_fault(s->slots.be);
        if (!st) {
            st = kd_slot_start(&s->slots, at);
        }
        if (st) {
            return st;
        }
    }
    while (s->n_posted < s->n_begun && is_posted(s, slot_of(s, s->n_posted))) {
        s->n_posted++;
    }
    return KD_OK;
}

static kd_status test(stream *s, kd_slot *at)
{
    const kd_status st = kd_slot_test(&s->slots, at);
    if (!st && at->state == KD_SLOT_FULL) {
        kd_slot_carry(&s->slots, at, (kd_event){0});
    }
    if (!st && (at->state == KD_SLOT_FULL || at->state == KD_SLOT_FREE)) {
        s->channel.bytes_moved += kd_message_plan_bytes(&s->slots.plan, at->groups);
        s->channel.messages_moved++;
    }
    return st;
}

/* Lets messages move, notes those that are complete and starts those that have become ready. */
static kd_status advance(stream *s)
{
    for (int i = 0; !s->fault && i < s->slots.depth; i++) {
        if (s->slots.at[i].state == KD_SLOT_MOVING) {
            s->fault = test(s, &s->slots.at[i]);
        }
    }
    if (!s->fault) {
        s->fault = s->slots.role == KD_ROLE_STUDENT ? post(s) : send_written(s);
    }
    return s->fault;
}

static kd_status wait_while_busy(stream *s, const kd_slot *at)
{
    const uint64_t start_ns = kd_clock_monotonic_ns();
    const uint64_t patience_ns = PATIENCE_NS + s->slots.plan.message_bytes;

    kd_status st = advance(s);
    if (st || !kd_slot_is_busy(at)) {
        return st;
    }
    uint64_t waited_ns = 0;
    do {
        kd_mpi_pause(waited_ns, patience_ns);
        st = advance(s);
        waited_ns = kd_clock_monotonic_ns() - start_ns;
    } while (!st && kd_slot_is_busy(at));
    s->channel.stall_ns += waited_ns;
    return st;
}

/* Numbers from `begin` on and below `end` that leave `rest` when divided by n. */
static uint64_t n_between(uint64_t begin, uint64_t end, uint64_t rest, uint64_t n)
{
    const uint64_t first = begin + (rest + n - begin % n) % n;
    return first < end ? (end - first + n - 1) / n : 0;
}

/* Teacher: counts each student's messages of all replicas before next_m, as far as steps are open. */
static void count_messages(stream *s)
{
    const uint64_t n_students = (uint64_t)s->slots.n_peers;
    const kd_open_step *step = kd_open_steps_find(&s->steps, s->counted_m);
    while (step != NULL && s->counted_m < s->next_m) {
        const uint64_t end_m = step->end_m < s->next_m ? step->end_m : s->next_m;
        for (uint64_t i = 0; i < n_students && step->groups != 0; i++) {
            s->n_before[i] += n_between(s->counted_m, end_m, i, n_students);
        }
        s->counted_m = end_m;
        step = kd_open_steps_find(&s->steps, s->counted_m);
    }
}

/* Teacher: where the student of a direct pair has the message: in its slots, too, n is at n mod depth. */
static void find_place(stream *s, kd_slot *at)
{
    const uint64_t student = at->m % (uint64_t)s->slots.n_peers;
    count_messages(s);
    at->has_room = false;
    if (kd_slot_is_direct(&s->slots, at)) {
        const uint64_t slot = s->n_before[student] % (uint64_t)s->slots.depth;
        at->there = s->slots.shared[student] + slot * s->slots.plan.message_bytes;
    }
}

/* Teacher: past the steps that nothing is sent in, so that they take no room. */
static void pass_empty_steps(stream *s)
{
    const kd_open_step *step = kd_open_steps_find(&s->steps, s->next_m);
    while (step != NULL && step->groups == 0) {
        s->next_m = first_of_rank(s, step->end_m);
        step = kd_open_steps_find(&s->steps, s->next_m);
    }
    count_messages(s);
    kd_open_steps_pass(&s->steps, s->next_m);
}

static kd_status open_step(kd_channel *channel, uint64_t first_m, uint64_t end_m, uint64_t groups)
{
    stream *s = (stream *)channel;
    const kd_open_step step = {first_m, end_m, groups};
    if (s->slots.plan.n_groups < KD_SIGNAL_GROUPS_MAX && groups >> s->slots.plan.n_groups != 0) {
        return kd_fail(KD_ERR_PROTO, "micro-batch %llu: found groups %llx, expected those of %d",
                       (unsigned long long)first_m, (unsigned long long)groups,
                       s->slots.plan.n_groups);
    }
    const kd_status st = kd_open_steps_add(&s->steps, &step);
    if (st) {
        return st;
    }
    if (!s->begun) {
        s->begun = true;
        s->next_m = s->next_post = first_of_rank(s, first_m);
        s->counted_m = first_m;
    }
    if (s->slots.role == KD_ROLE_STUDENT) {
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
    KD_CHECK(s->slots.role == KD_ROLE_TEACHER);
    kd_status st = step_of(s, m, &step);
    if (st) {
        return st;
    }
    KD_CHECK(step.groups != 0);
    kd_slot *at = slot_of(s, s->n_begun);
    st = wait_while_busy(s, at);
    if (st) {
        return st;
    }
    KD_CHECK(at->state == KD_SLOT_FREE);
    at->state = KD_SLOT_OPEN;
    at->m = m;
    at->groups = step.groups;
    find_place(s, at);
    *message_out = at->message;
    return KD_OK;
}

static kd_status end_send(kd_channel *channel, uint64_t m, kd_event ready)
{
    stream *s = (stream *)channel;
    kd_slot *at = slot_of(s, s->n_begun);
    KD_CHECK(s->slots.role == KD_ROLE_TEACHER && at->state == KD_SLOT_OPEN && at->m == m);
    kd_status st = KD_OK;
    if (kd_slot_is_direct(&s->slots, at)) {
        at->event = ready;
        st = kd_slot_start(&s->slots, at); /* asks for room */
    } else {
        at->state = KD_SLOT_LATE;
        kd_slot_carry(&s->slots, at, ready);
    }
    s->n_begun++;
    s->next_m = m + s->stride;
    pass_empty_steps(s);
    return st ? st : send_written(s);
}

static kd_status flush(kd_channel *channel)
{
    stream *s = (stream *)channel;
    for (int i = 0; i < s->slots.depth; i++) {
        const kd_status st = wait_while_busy(s, &s->slots.at[i]);
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
    KD_CHECK(s->slots.role == KD_ROLE_STUDENT);
    kd_status st = step_of(s, m, &step);
    if (st) {
        return st;
    }
    if (step.groups != 0) {
        kd_slot *at = slot_of(s, s->n_begun);
        KD_CHECK(at->state != KD_SLOT_FULL || at->m == m);
        st = wait_while_busy(s, at);
        if (st) {
            return st;
        }
        KD_CHECK(at->state == KD_SLOT_FULL && at->m == m);
        s->slots.be->ops->event_wait(s->slots.be, at->carried);
        message = at->message;
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
    KD_CHECK(s->slots.role == KD_ROLE_STUDENT && m < s->next_m);
    for (int i = 0; i < s->slots.depth; i++) {
        if (s->slots.at[i].state == KD_SLOT_FULL && s->slots.at[i].m == m) {
            s->slots.at[i].state = KD_SLOT_LATE;
            s->slots.at[i].event = done;
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

static void destroy(kd_channel *channel)
{
    stream *s = (stream *)channel;
    kd_slots_release(&s->slots);
    free(s->n_before);
    kd_open_steps_release(&s->steps);
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

static void set_sides(stream *s, const kd_world *world, int teacher)
{
    const bool student = kd_world_role(world) == KD_ROLE_STUDENT;
    const int n_students = kd_world_students(world);
    const int n_replicas = kd_world_replicas(world, teacher);
    s->slots.role = kd_world_role(world);
    s->slots.number = kd_world_role_rank(world);
    s->own = (uint64_t)kd_world_role_rank(world);
    s->stride = (uint64_t)(student ? n_students : n_replicas);
    s->slots.n_peers = student ? n_replicas : n_students;
    s->slots.first_peer = student ? n_students : 0;
}

static void say_way(const stream *s, int teacher)
{
    const kd_slots *slots = &s->slots;
    const char *way = slots->be->device.kind == KD_DEVICE_CPU ? "by MPI from host memory"
                      : !slots->staged                        ? "by MPI from device memory"
                      : slots->n_direct < slots->n_peers
                          ? "by MPI through host memory, to and from device memory by transfers"
                          : "from device memory to device memory";
    kd_log(KD_LOG_INFO, "signals of teachers.%d go %s", teacher, way);
    if (slots->n_direct > 0 && slots->n_direct < slots->n_peers) {
        kd_log(KD_LOG_INFO, "of these with %d of %d ranks from device memory to device memory",
               slots->n_direct, slots->n_peers);
    }
}

kd_status
kd_stream_create(kd_world *world, const kd_stream_settings *settings, kd_channel **channel_out)
{
    const kd_lesson *lesson = &world->lessons[settings->teacher];
    KD_CHECK(lesson->n_replicas > 0 && lesson->comm != MPI_COMM_NULL);
    const int64_t n_ranks = kd_world_students(world) + lesson->n_replicas;
    KD_CHECK(settings->n_steps > 0);
    kd_status st = kd_slots_check(settings, n_ranks);
    if (st) {
        return st;
    }
    stream *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a signal stream");
    }
    s->channel.ops = &stream_ops;
    s->slots.be = settings->be;
    s->slots.depth = settings->depth;
    s->slots.plan = *settings->plan;
    set_sides(s, world, settings->teacher);
    s->slots.staged = settings->be->device.kind != KD_DEVICE_CPU && !world->takes_device;
    s->n_before = calloc((size_t)s->slots.n_peers, sizeof *s->n_before);
    st = s->n_before == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for a signal stream")
                             : kd_slots_take(&s->slots, lesson->comm);
    if (!st) {
        st = kd_open_steps_init(&s->steps, settings->n_steps);
    }
    if (st) {
        destroy(&s->channel);
        return st;
    }
    s->slots.is_open = true;
    say_way(s, settings->teacher);
    *channel_out = &s->channel;
    return KD_OK;
}
