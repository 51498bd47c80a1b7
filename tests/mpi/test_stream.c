/* The signal stream between students and teachers, on the back end under test: test_stream STUDENTS REPLICAS... */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "comm/stream.h"
#include "mpi_test.h"
#include "tests/support/back_end.h"
#include "tests/support/late_queue.h"

enum { N_GROUPS = 2, N_TEACHERS_MAX = 4, STEP = 6 };

static const kd_event past = {0};

static kd_backend *be;

static int n_teachers; /* in the world */

/* Messages of two groups; in each step of STEP micro-batches those travel that `groups` names. */
typedef struct stream_case {
    size_t group_bytes;
    int depth;
    int n_ahead; /* steps that a student opens ahead */
    uint64_t first_m, end_m;
    uint64_t (*groups)(int teacher, uint64_t step);
} stream_case;

static uint64_t all_groups(int teacher, uint64_t step)
{
    (void)teacher;
    (void)step;
    return 3;
}

/* All masks of two groups, none of them too, in another order for each teacher. */
static uint64_t other_groups(int teacher, uint64_t step)
{
    return (step * 3 + (uint64_t)teacher * 2 + step / 4) % 4;
}

static uint64_t no_groups(int teacher, uint64_t step)
{
    (void)teacher;
    (void)step;
    return 0;
}

static kd_message_plan plan_of(size_t group_bytes)
{
    const size_t bytes = (group_bytes + KD_ARENA_ALIGN - 1) / KD_ARENA_ALIGN * KD_ARENA_ALIGN;
    return (kd_message_plan){.groups = {{1, 0, bytes}, {2, bytes, bytes}},
                             .n_groups = N_GROUPS,
                             .message_bytes = 2 * bytes};
}

static kd_channel *open_stream(kd_world *world, int teacher, const stream_case *c)
{
    kd_channel *channel = NULL;
    const kd_message_plan plan = plan_of(c->group_bytes);
    const kd_stream_settings settings = {
        .teacher = teacher, .plan = &plan, .be = be, .depth = c->depth, .n_steps = c->n_ahead};
    EXPECT(kd_stream_create(world, &settings, &channel) == KD_OK, "create");
    return channel;
}

/* A group of m is its own bytes everywhere: words of a generator keyed by all that names it. */
static uint8_t byte_of(uint64_t key, size_t word, size_t byte)
{
    return (uint8_t)(kd_rng_u64(key, word) >> (8 * byte));
}

static uint64_t key_of(int teacher, uint64_t m, int group)
{
    return (m * N_TEACHERS_MAX + (uint64_t)teacher) * N_GROUPS + (uint64_t)group;
}

static void fill(uint8_t *message, const stream_case *c, int teacher, uint64_t m)
{
    const kd_message_plan plan = plan_of(c->group_bytes);
    for (int g = 0; g < N_GROUPS; g++) {
        uint8_t *at = message + plan.groups[g].offset_bytes;
        if ((c->groups(teacher, m / STEP) >> g & 1) == 0) {
            memset(at, 0xee, c->group_bytes); /* is not to arrive */
            continue;
        }
        for (size_t i = 0; i < c->group_bytes; i++) {
            at[i] = byte_of(key_of(teacher, m, g), i / 4096, i % 8);
        }
    }
}

static size_t wrong_bytes(const uint8_t *message, const stream_case *c, int teacher, uint64_t m)
{
    const kd_message_plan plan = plan_of(c->group_bytes);
    size_t n = 0;
    for (int g = 0; g < N_GROUPS; g++) {
        if ((c->groups(teacher, m / STEP) >> g & 1) == 0) {
            continue;
        }
        for (size_t i = 0; i < c->group_bytes; i++) {
            n += message[plan.groups[g].offset_bytes + i] !=
                 byte_of(key_of(teacher, m, g), i / 4096, i % 8);
        }
    }
    return n;
}

static kd_tensor bytes_of(void *memory, const stream_case *c)
{
    const int64_t n = (int64_t)(plan_of(c->group_bytes).message_bytes / sizeof(int32_t));
    return kd_tensor_1d(memory, KD_I32, n);
}

/* The same by the back end's queue, late where that is a device's. */
static void queue_fill(void *message, const stream_case *c, int teacher, uint64_t m)
{
    const kd_tensor place = bytes_of(message, c);
    uint8_t *bytes = calloc(1, kd_tensor_bytes(place));
    EXPECT(bytes != NULL, "no memory");
    fill(bytes, c, teacher, m);
    be->ops->upload(be, place, bytes);
    free(bytes);
}

static void open_step(kd_channel *channel, int teacher, const stream_case *c, uint64_t step)
{
    EXPECT(channel->ops->open_step(channel, step * STEP, (step + 1) * STEP,
                                   c->groups(teacher, step)) == KD_OK,
           "open_step");
}

/* This replica's messages of one step; counts them. */
static uint64_t
teach_step(kd_world *world, kd_channel *channel, const stream_case *c, uint64_t step)
{
    const int teacher = kd_world_teacher(world);
    const uint64_t n = (uint64_t)kd_world_replicas(world, teacher);
    uint64_t n_sent = 0;
    open_step(channel, teacher, c, step);
    for (uint64_t m = step * STEP; m < (step + 1) * STEP; m++) {
        void *buffer = NULL;
        if (m % n != (uint64_t)kd_world_role_rank(world) || c->groups(teacher, step) == 0) {
            continue;
        }
        EXPECT(channel->ops->begin_send(channel, m, &buffer) == KD_OK, "begin_send");
        queue_fill(buffer, c, teacher, m);
        EXPECT(channel->ops->end_send(channel, m, be->ops->event_record(be)) == KD_OK, "end_send");
        channel->ops->progress(channel);
        n_sent++;
    }
    return n_sent;
}

static void teach(kd_world *world, const stream_case *c, uint64_t end_m)
{
    kd_channel *channel = open_stream(world, kd_world_teacher(world), c);
    uint64_t n_sent = 0;
    for (uint64_t step = c->first_m / STEP; step < end_m / STEP; step++) {
        n_sent += teach_step(world, channel, c, step);
    }
    EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
    EXPECT(channel->messages_moved == n_sent, "%llu sent, %llu counted", (unsigned long long)n_sent,
           (unsigned long long)channel->messages_moved);
    kd_channel_destroy(channel);
}

/* What messages held when the queue came to them, to be looked at when all are there. */
typedef struct kept {
    uint8_t *bytes; /* (end_m - first_m, n_teachers, message_bytes), the back end's */
    bool *came;     /* (end_m - first_m, n_teachers)                                */
} kept;

static kept keep(const stream_case *c)
{
    const size_t n = (size_t)(c->end_m - c->first_m) * (size_t)n_teachers;
    const size_t size_bytes = n * plan_of(c->group_bytes).message_bytes;
    const kept k = {be->ops->alloc(be, KD_MEMORY_DEVICE, size_bytes), calloc(n, sizeof(bool))};
    EXPECT(k.bytes != NULL && k.came != NULL, "no memory");
    return k;
}

static size_t index_of(const stream_case *c, int teacher, uint64_t m)
{
    return (size_t)(m - c->first_m) * (size_t)n_teachers + (size_t)teacher;
}

static void
learn_one(kd_channel *channel, int teacher, const stream_case *c, uint64_t m, const kept *k)
{
    const size_t i = index_of(c, teacher, m);
    void *message = &message;
    channel->ops->progress(channel);
    EXPECT(channel->ops->receive(channel, m, &message) == KD_OK, "receive");
    EXPECT((message == NULL) == (c->groups(teacher, m / STEP) == 0), "micro-batch %llu",
           (unsigned long long)m);
    k->came[i] = message != NULL;
    if (message != NULL) {
        uint8_t *place = k->bytes + i * plan_of(c->group_bytes).message_bytes;
        be->ops->copy(be, bytes_of(place, c), bytes_of(message, c));
    }
    EXPECT(channel->ops->release(channel, m, be->ops->event_record(be)) == KD_OK, "release");
}

static void expect_kept(const stream_case *c, kept *k)
{
    const size_t message_bytes = plan_of(c->group_bytes).message_bytes;
    uint8_t *bytes = malloc(message_bytes);
    EXPECT(bytes != NULL, "no memory");
    for (uint64_t m = c->first_m; m < c->end_m; m++) {
        for (int teacher = 0; teacher < n_teachers; teacher++) {
            const size_t i = index_of(c, teacher, m);
            if (k->came[i]) {
                be->ops->download(be, bytes, bytes_of(k->bytes + i * message_bytes, c));
                EXPECT(wrong_bytes(bytes, c, teacher, m) == 0,
                       "teacher %d, micro-batch %llu is not its own", teacher,
                       (unsigned long long)m);
            }
        }
    }
    EXPECT(kd_backend_wait(be) == KD_OK, "the back end has a fault");
    be->ops->free(be, k->bytes);
    free(k->came);
    free(bytes);
}

/* Takes the micro-batches before end_m of all teachers in turn, though more steps are open. */
static void learn(kd_world *world, const stream_case *c, uint64_t end_m)
{
    const uint64_t n = (uint64_t)kd_world_students(world);
    kd_channel *channels[N_TEACHERS_MAX];
    uint64_t opened = c->first_m / STEP;
    stream_case taken = *c;
    taken.end_m = end_m;
    kept k = keep(&taken);
    for (int i = 0; i < n_teachers; i++) {
        channels[i] = open_stream(world, i, c);
    }
    for (uint64_t m = c->first_m; m < end_m; m++) {
        for (; opened < c->end_m / STEP && opened < m / STEP + (uint64_t)c->n_ahead; opened++) {
            for (int i = 0; i < n_teachers; i++) {
                open_step(channels[i], i, c, opened);
            }
        }
        for (int i = 0; i < n_teachers && m % n == (uint64_t)kd_world_role_rank(world); i++) {
            learn_one(channels[i], i, &taken, m, &k);
        }
    }
    for (int i = 0; i < n_teachers; i++) {
        EXPECT(c->groups != no_groups || channels[i]->bytes_moved == 0, "%llu bytes moved",
               (unsigned long long)channels[i]->bytes_moved);
        kd_channel_destroy(channels[i]);
    }
    expect_kept(&taken, &k);
}

static void every_message_arrives_whole_and_in_order(kd_world *world, stream_case c)
{
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        teach(world, &c, c.end_m);
    } else {
        learn(world, &c, c.end_m);
    }
}

/*
 * An ordered stop: teachers send less than the stream was opened for, and nobody hangs. At some depths a
 * slot meets every replica, at others one of them alone, so that receives of the others never start.
 */
static void stream_may_end_early(kd_world *world, int depth)
{
    const stream_case c = {1000, depth, 3, 12, 1200, all_groups};
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        teach(world, &c, 24);
    } else {
        learn(world, &c, 24);
    }
}

/* Calls out of turn are answered, not obeyed. */
static void steps_must_be_open(kd_world *world)
{
    const stream_case c = {100, 1, 1, 0, STEP, all_groups};
    for (int i = 0; i < n_teachers; i++) {
        void *message = NULL;
        if (kd_world_role(world) == KD_ROLE_TEACHER && kd_world_teacher(world) != i) {
            continue;
        }
        kd_channel *channel = open_stream(world, i, &c);
        kd_fault_quiet(1);
        if (kd_world_role(world) == KD_ROLE_TEACHER) {
            EXPECT(channel->ops->begin_send(channel, 0, &message) == KD_ERR_STATE, "not open");
        } else {
            EXPECT(channel->ops->receive(channel, 0, &message) == KD_ERR_STATE, "not open");
        }
        EXPECT(channel->ops->open_step(channel, 0, STEP, 4) == KD_ERR_PROTO, "no such group");
        EXPECT(channel->ops->open_step(channel, 0, STEP, 0) == KD_OK, "open");
        EXPECT(channel->ops->open_step(channel, 0, STEP, 0) == KD_ERR_STATE, "open already");
        kd_fault_quiet(0);
        kd_channel_destroy(channel);
    }
}

static void too_much_is_refused(kd_world *world)
{
    kd_channel *channel = NULL;
    kd_message_plan plan = {.n_groups = 1, .message_bytes = (size_t)1 << 40};
    kd_stream_settings settings = {.plan = &plan, .be = be, .depth = 1, .n_steps = 1};
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        settings.teacher = kd_world_teacher(world);
    }
    plan.groups[0].size_bytes = plan.message_bytes;
    kd_fault_quiet(1);
    EXPECT(kd_stream_create(world, &settings, &channel) == KD_ERR_INVALID, "too large");
    plan.groups[0].size_bytes = plan.message_bytes = 64;
    settings.depth = 1 << 20;
    EXPECT(kd_stream_create(world, &settings, &channel) == KD_ERR_INVALID, "too many");
    kd_fault_quiet(0);
    EXPECT(channel == NULL, "untouched");
}

static void nap_while_moving(kd_channel *channel, int n_ms)
{
    const struct timespec ms = {.tv_nsec = 1000000};
    for (int i = 0; i < n_ms; i++) {
        channel->ops->progress(channel);
        (void)nanosleep(&ms, NULL);
    }
}

/* The teacher tells over a channel of the test's own how many buffers it got. */
static void teach_and_tell(kd_channel *channel, const stream_case *c)
{
    for (uint64_t m = 0; m < c->end_m; m++) {
        void *buffer = NULL;
        int begun = (int)m + 1;
        EXPECT(channel->ops->begin_send(channel, m, &buffer) == KD_OK, "begin_send");
        MPI_Bsend(&begun, 1, MPI_INT, 0, 0, MPI_COMM_WORLD);
        EXPECT(channel->ops->end_send(channel, m, past) == KD_OK, "end_send");
    }
    EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
}

static int begun_so_far(int teacher_rank, int begun)
{
    for (;;) {
        int there = 0;
        MPI_Iprobe(teacher_rank, 0, MPI_COMM_WORLD, &there, MPI_STATUS_IGNORE);
        if (!there) {
            return begun;
        }
        MPI_Recv(&begun, 1, MPI_INT, teacher_rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
}

/* A slow student: depth messages wait on its side, depth buffers on the teacher's, and no more. */
static void learn_slowly_and_count(kd_channel *channel, const stream_case *c)
{
    int begun = 0;
    for (uint64_t m = 0; m < c->end_m; m++) {
        const int limit = (int)m + 2 * c->depth; /* m messages were released before */
        const int expected = limit < (int)c->end_m ? limit : (int)c->end_m;
        void *message = NULL;
        EXPECT(channel->ops->receive(channel, m, &message) == KD_OK, "receive");
        const double end_s = kd_clock_monotonic_s() + 60.0; /* on a machine with other work, too */
        while (begun < expected && kd_clock_monotonic_s() < end_s) {
            nap_while_moving(channel, 1);
            begun = begun_so_far(1, begun);
        }
        nap_while_moving(channel, 3); /* time in which a teacher without limits would go on */
        begun = begun_so_far(1, begun);
        EXPECT(begun == expected, "depth %d, %zu bytes: %d begun while %d were released", c->depth,
               c->group_bytes, begun, (int)m);
        EXPECT(channel->ops->release(channel, m, past) == KD_OK, "release");
    }
}

static void credits_bound_how_far_a_teacher_runs_ahead(kd_world *world, stream_case c)
{
    char space[64 * (sizeof(int) + MPI_BSEND_OVERHEAD)];
    int space_bytes = (int)sizeof space;
    void *attached = space;
    kd_channel *channel = open_stream(world, 0, &c);

    EXPECT(channel->ops->open_step(channel, 0, c.end_m, 3) == KD_OK, "open");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        MPI_Buffer_attach(attached, space_bytes);
        teach_and_tell(channel, &c);
        MPI_Buffer_detach(&attached, &space_bytes);
    } else {
        learn_slowly_and_count(channel, &c);
    }
    kd_channel_destroy(channel);
}

static void waiting_is_counted_as_stall(kd_world *world)
{
    const stream_case c = {64, 1, 1, 0, 1, all_groups};
    kd_channel *channel = open_stream(world, 0, &c);
    void *buffer = NULL;
    const struct timespec nap = {.tv_nsec = 50000000};
    EXPECT(channel->ops->open_step(channel, 0, 1, 1) == KD_OK, "open");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        EXPECT(channel->ops->begin_send(channel, 0, &buffer) == KD_OK, "begin_send");
        (void)nanosleep(&nap, NULL);
        EXPECT(channel->ops->end_send(channel, 0, past) == KD_OK, "end_send");
        EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
    } else {
        const double start_s = kd_clock_monotonic_s();
        EXPECT(channel->ops->receive(channel, 0, &buffer) == KD_OK, "receive");
        const double waited_s =
            kd_clock_monotonic_s() - start_s; /* the nap, but on a full machine */
        const double stall_s = (double)channel->stall_ns * 1e-9;
        EXPECT(stall_s <= waited_s && stall_s >= waited_s / 2, "%g of %g s", stall_s, waited_s);
        EXPECT(channel->ops->release(channel, 0, past) == KD_OK, "release");
    }
    kd_channel_destroy(channel);
}

/* The queue writes a message only after end_send: what arrives must be that. */
static void teach_late(kd_channel *channel, const stream_case *c, late_queue *queue)
{
    for (uint64_t m = 0; m < c->end_m; m++) {
        void *buffer = NULL;
        EXPECT(channel->ops->begin_send(channel, m, &buffer) == KD_OK, "begin_send");
        memset(buffer, 0xee, plan_of(c->group_bytes).message_bytes);
        queue->n_late = 1000000;
        EXPECT(channel->ops->end_send(channel, m, be->ops->event_record(be)) == KD_OK, "end_send");
        nap_while_moving(channel, 5);
        fill(buffer, c, 0, m);
        if (m % 2 == 0) {
            late_queue_catch_up(queue);
        } else {
            queue->n_late = 3; /* it does so while begin_send or flush waits */
        }
    }
    EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
}

/* The queue reads a message only after release: until then nothing may be written over it. */
static void learn_late(kd_channel *channel, const stream_case *c, late_queue *queue)
{
    for (uint64_t m = 0; m < c->end_m; m++) {
        void *message = NULL;
        EXPECT(channel->ops->receive(channel, m, &message) == KD_OK, "receive");
        queue->n_late = 1000000;
        EXPECT(channel->ops->release(channel, m, be->ops->event_record(be)) == KD_OK, "release");
        nap_while_moving(channel, 10);
        EXPECT(wrong_bytes(message, c, 0, m) == 0, "micro-batch %llu was written over",
               (unsigned long long)m);
        queue->n_late = 3; /* it is past while receive waits */
    }
}

static void messages_move_once_their_events_are_past(kd_world *world, stream_case c)
{
    late_queue queue;
    late_queue_take(&queue, be);
    kd_channel *channel = open_stream(world, 0, &c);
    EXPECT(channel->ops->open_step(channel, 0, c.end_m, 3) == KD_OK, "open");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        teach_late(channel, &c, &queue);
    } else {
        learn_late(channel, &c, &queue);
    }
    EXPECT(queue.n_stops == 0, "%d waits for the queue", queue.n_stops);
    kd_channel_destroy(channel);
    EXPECT(queue.n_waits == 1, "its memory went before the queue was past it");
    late_queue_give_back(&queue);
}

/* What a queue with a fault has written goes nowhere. */
static void a_fault_of_the_teachers_queue_is_told(kd_world *world)
{
    const stream_case c = {100, 1, 1, 0, 1, all_groups};
    kd_channel *channel = open_stream(world, 0, &c);
    void *buffer = NULL;
    EXPECT(channel->ops->open_step(channel, 0, 1, 3) == KD_OK, "open");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        EXPECT(channel->ops->begin_send(channel, 0, &buffer) == KD_OK, "begin_send");
        be->fault = KD_ERR_NOMEM;
        (void)snprintf(be->fault_text, sizeof be->fault_text, "no memory for a test");
        EXPECT(channel->ops->end_send(channel, 0, be->ops->event_record(be)) == KD_ERR_NOMEM,
               "end_send");
        EXPECT(strcmp(kd_fault_text(), be->fault_text) == 0, "found: %s", kd_fault_text());
        be->fault = KD_OK;
    }
    kd_channel_destroy(channel);
}

static void run_all(kd_world *world)
{
    const size_t sizes[] = {1, 65, 5000, 300000};
    const int depth_max =
        be->device.kind == KD_DEVICE_CPU ? 4 : 2; /* the emulator takes its time */
    for (int depth = 1; depth <= depth_max; depth++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            every_message_arrives_whole_and_in_order(
                world, (stream_case){sizes[i], depth, depth, 6, 54, all_groups});
            every_message_arrives_whole_and_in_order(
                world, (stream_case){sizes[i], depth, 5 - depth, 6, 54, other_groups});
        }
        every_message_arrives_whole_and_in_order(
            world, (stream_case){4 << 20, depth, 1, 0, 6, all_groups});
        every_message_arrives_whole_and_in_order(world,
                                                 (stream_case){100, depth, 2, 6, 54, no_groups});
        stream_may_end_early(world, depth);
    }
    steps_must_be_open(world);
    too_much_is_refused(world);
}

int main(int argc, char **argv)
{
    int provided = 0, rank = 0, replicas[N_TEACHERS_MAX] = {0};
    const char *without = getenv("KD_TEST_SHARING_NOT_ON");
    kd_world *world = NULL;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (without != NULL && atoi(without) == rank) {
        setenv("KD_DEVICE_SHARING", "no", 1);
    }
    n_teachers = argc - 2;
    EXPECT(n_teachers >= 1 && n_teachers <= N_TEACHERS_MAX, "usage: %s STUDENTS REPLICAS...",
           argv[0]);
    const int n_students = atoi(argv[1]);
    for (int i = 0; i < n_teachers; i++) {
        replicas[i] = atoi(argv[i + 2]);
    }
    EXPECT(kd_world_create(&world) == KD_OK, "world");
    EXPECT(kd_world_assign(world, n_students, n_teachers, replicas) == KD_OK, "roles");
    be = kd_test_backend(KD_F32, 1);

    run_all(world);
    if (n_students == 1 && n_teachers == 1 && replicas[0] == 1) {
        for (int depth = 1; depth <= 3; depth++) {
            credits_bound_how_far_a_teacher_runs_ahead(
                world, (stream_case){8, depth, 1, 0, 20, all_groups});
            credits_bound_how_far_a_teacher_runs_ahead(
                world, (stream_case){1 << 19, depth, 1, 0, 12, all_groups});
        }
        /* Tests that write and read messages in place: of a device the emulator is as late. */
        for (int depth = 1; depth <= 3 && be->device.kind == KD_DEVICE_CPU; depth++) {
            messages_move_once_their_events_are_past(world,
                                                     (stream_case){8, depth, 1, 0, 12, all_groups});
            messages_move_once_their_events_are_past(
                world, (stream_case){1 << 17, depth, 1, 0, 12, all_groups});
        }
        waiting_is_counted_as_stall(world);
        if (be->device.kind == KD_DEVICE_CPU) {
            a_fault_of_the_teachers_queue_is_told(world);
        }
    }
    kd_backend_destroy(be);
    kd_world_destroy(world);
    MPI_Finalize();
    return 0;
}
