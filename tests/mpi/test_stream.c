/* The signal stream between students and teachers: usage test_stream STUDENTS TEACHERS. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "comm/stream.h"
#include "mpi_test.h"

typedef struct stream_case {
    size_t message_bytes;
    int depth;
    uint64_t first_m, end_m;
} stream_case;

/* A message of m is its own bytes everywhere: words of a generator keyed by m, the tail byte by byte. */
static uint8_t byte_of(uint64_t m, size_t word, size_t byte)
{
    return (uint8_t)(kd_rng_u64(m, word) >> (8 * byte));
}

static void fill(uint8_t *message, size_t size_bytes, uint64_t m)
{
    for (size_t i = 0; i < size_bytes; i++) {
        message[i] = byte_of(m, i / 4096, i % 8);
    }
}

static size_t wrong_bytes(const uint8_t *message, size_t size_bytes, uint64_t m)
{
    size_t n = 0;
    for (size_t i = 0; i < size_bytes; i++) {
        n += message[i] != byte_of(m, i / 4096, i % 8);
    }
    return n;
}

static uint64_t first_of(const stream_case *c, int n, int rank)
{
    uint64_t m = c->first_m;
    while (m % (uint64_t)n != (uint64_t)rank) {
        m++;
    }
    return m;
}

static void teach(kd_world *world, kd_channel *channel, const stream_case *c)
{
    const int n = kd_world_teachers(world);
    uint64_t n_sent = 0;
    for (uint64_t m = first_of(c, n, kd_world_role_rank(world)); m < c->end_m; m += (uint64_t)n) {
        void *buffer = NULL;
        EXPECT(channel->ops->begin_send(channel, m, &buffer) == KD_OK, "begin_send");
        fill(buffer, c->message_bytes, m);
        EXPECT(channel->ops->end_send(channel, m) == KD_OK, "end_send");
        channel->ops->progress(channel);
        n_sent++;
    }
    EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
    EXPECT(channel->messages_moved == n_sent, "%llu sent, %llu counted", (unsigned long long)n_sent,
           (unsigned long long)channel->messages_moved);
}

static void learn(kd_world *world, kd_channel *channel, const stream_case *c, uint64_t end_m)
{
    const int n = kd_world_students(world);
    for (uint64_t m = first_of(c, n, kd_world_role_rank(world)); m < end_m; m += (uint64_t)n) {
        void *message = NULL;
        channel->ops->progress(channel);
        EXPECT(channel->ops->receive(channel, m, &message) == KD_OK, "receive");
        EXPECT(wrong_bytes(message, c->message_bytes, m) == 0, "micro-batch %llu is not its own",
               (unsigned long long)m);
        EXPECT(channel->ops->release(channel, m) == KD_OK, "release");
    }
}

static void every_message_arrives_whole_and_in_order(kd_world *world, stream_case c)
{
    kd_channel *channel = NULL;
    EXPECT(kd_stream_create(world, c.message_bytes, c.depth, c.first_m, c.end_m, &channel) == KD_OK,
           "create");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        teach(world, channel, &c);
    } else {
        learn(world, channel, &c, c.end_m);
    }
    kd_channel_destroy(channel);
}

/*
 * An ordered stop: teachers send less than the stream was made for, and nobody hangs. At some depths a
 * slot meets every teacher, at others one of them alone, so that receives of the others never start.
 */
static void stream_may_end_early(kd_world *world, int depth)
{
    const stream_case whole = {1000, depth, 12, 1200};
    stream_case sent = whole;
    kd_channel *channel = NULL;
    sent.end_m = 24;
    EXPECT(kd_stream_create(world, whole.message_bytes, whole.depth, whole.first_m, whole.end_m,
                            &channel) == KD_OK,
           "create");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        teach(world, channel, &sent);
    } else {
        learn(world, channel, &whole, sent.end_m);
    }
    kd_channel_destroy(channel);
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
        fill(buffer, c->message_bytes, m);
        EXPECT(channel->ops->end_send(channel, m) == KD_OK, "end_send");
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
        for (int tries = 0; tries < 100 && begun < expected; tries++) {
            nap_while_moving(channel, 1);
            begun = begun_so_far(1, begun);
        }
        nap_while_moving(channel, 3); /* time in which a teacher without limits would go on */
        begun = begun_so_far(1, begun);
        EXPECT(begun == expected, "depth %d, %zu bytes: %d begun while %d were released", c->depth,
               c->message_bytes, begun, (int)m);
        EXPECT(channel->ops->release(channel, m) == KD_OK, "release");
    }
}

static void credits_bound_how_far_a_teacher_runs_ahead(kd_world *world, stream_case c)
{
    char space[64 * (sizeof(int) + MPI_BSEND_OVERHEAD)];
    int space_bytes = (int)sizeof space;
    void *attached = space;
    kd_channel *channel = NULL;

    EXPECT(kd_stream_create(world, c.message_bytes, c.depth, 0, c.end_m, &channel) == KD_OK,
           "create");
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
    kd_channel *channel = NULL;
    void *buffer = NULL;
    const struct timespec nap = {.tv_nsec = 50000000};
    EXPECT(kd_stream_create(world, 64, 1, 0, 1, &channel) == KD_OK, "create");
    if (kd_world_role(world) == KD_ROLE_TEACHER) {
        EXPECT(channel->ops->begin_send(channel, 0, &buffer) == KD_OK, "begin_send");
        (void)nanosleep(&nap, NULL);
        EXPECT(channel->ops->end_send(channel, 0) == KD_OK, "end_send");
        EXPECT(channel->ops->flush(channel) == KD_OK, "flush");
    } else {
        EXPECT(channel->ops->receive(channel, 0, &buffer) == KD_OK, "receive");
        EXPECT(channel->stall_ns > 20000000, "%llu ns", (unsigned long long)channel->stall_ns);
        EXPECT(channel->ops->release(channel, 0) == KD_OK, "release");
    }
    kd_channel_destroy(channel);
}

int main(int argc, char **argv)
{
    int provided = 0;
    kd_world *world = NULL;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    EXPECT(argc == 3, "usage: %s STUDENTS TEACHERS", argv[0]);
    const int n_students = atoi(argv[1]), n_teachers = atoi(argv[2]);
    EXPECT(kd_world_create(&world) == KD_OK, "world");
    EXPECT(kd_world_assign(world, n_students, n_teachers) == KD_OK, "roles");

    const size_t sizes[] = {1, 65, 5000, 300000};
    for (int depth = 1; depth <= 4; depth++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            every_message_arrives_whole_and_in_order(world, (stream_case){sizes[i], depth, 6, 54});
        }
        every_message_arrives_whole_and_in_order(world, (stream_case){8 << 20, depth, 0, 6});
    }
    for (int depth = 1; depth <= 4; depth++) {
        stream_may_end_early(world, depth);
    }
    if (n_students == 1 && n_teachers == 1) {
        for (int depth = 1; depth <= 3; depth++) {
            credits_bound_how_far_a_teacher_runs_ahead(world, (stream_case){8, depth, 0, 20});
            credits_bound_how_far_a_teacher_runs_ahead(world, (stream_case){1 << 20, depth, 0, 12});
        }
        waiting_is_counted_as_stall(world);
    }
    kd_world_destroy(world);
    MPI_Finalize();
    return 0;
}
