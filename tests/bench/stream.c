/*
 * stream.c - what the signal stream moves, beside plain MPI in the same run: mpirun -n 2 bench_stream.
 *
 *   stream      kd_stream, one teacher, one student, depth 2: begin_send, end_send | receive, release
 *   ping-pong   MPI_Send and MPI_Recv there and back, one buffer; bytes over half a round trip
 *   one way     MPI_Isend and MPI_Irecv with two buffers, as a program without credits would
 *
 * The three take turns, and each counts with its median, so that other load on the machine meets all.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/status.h"
#include "comm/stream.h"

#define ROUNDS        7
#define BYTES_A_ROUND ((size_t)512 << 20)
#define GIB           1073741824.0

typedef struct bench {
    kd_world *world;
    kd_backend *be;
    int rank; /* 0 student, 1 teacher */
    size_t size_bytes;
    int n_messages;  /* of a round */
    char *buffer[2]; /* size_bytes each */
} bench;

typedef struct rates {
    double stream, ping_pong, one_way; /* GiB/s */
} rates;

/* Message-passing code has nothing to hand a fault to but the launcher. */
static void must(int failed, const char *what)
{
    if (failed) {
        (void)fprintf(stderr, "bench_stream: %s failed\n", what);
        MPI_Abort(MPI_COMM_WORLD, 70);
    }
}

static double gib_per_s(const bench *b, double seconds)
{
    return (double)b->size_bytes * b->n_messages / seconds / GIB;
}

static double run_stream(const bench *b)
{
    kd_channel *channel = NULL;
    void *message = NULL;
    const kd_message_plan plan = {
        .groups = {{.size_bytes = b->size_bytes}}, .n_groups = 1, .message_bytes = b->size_bytes};
    const kd_stream_settings settings = {.plan = &plan, .be = b->be, .depth = 2, .n_steps = 1};
    must(kd_stream_create(b->world, &settings, &channel), "kd_stream_create");
    must(channel->ops->open_step(channel, 0, (uint64_t)b->n_messages, 1), "open_step");
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = MPI_Wtime();
    for (uint64_t m = 0; m < (uint64_t)b->n_messages; m++) {
        if (b->rank == 1) {
            must(channel->ops->begin_send(channel, m, &message), "begin_send");
            must(channel->ops->end_send(channel, m, (kd_event){0}), "end_send");
        } else {
            must(channel->ops->receive(channel, m, &message), "receive");
            must(channel->ops->release(channel, m, (kd_event){0}), "release");
        }
    }
    if (b->rank == 1) {
        must(channel->ops->flush(channel), "flush");
    }
    const double seconds = MPI_Wtime() - start;
    kd_channel_destroy(channel);
    return gib_per_s(b, seconds);
}

static double run_ping_pong(const bench *b)
{
    const int n = (int)b->size_bytes, other = 1 - b->rank;
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = MPI_Wtime();
    for (int i = 0; i < b->n_messages; i++) {
        if (i % 2 == b->rank) {
            MPI_Send(b->buffer[0], n, MPI_BYTE, other, 0, MPI_COMM_WORLD);
        } else {
            MPI_Recv(b->buffer[0], n, MPI_BYTE, other, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
    }
    return gib_per_s(b, MPI_Wtime() - start);
}

static double run_one_way(const bench *b)
{
    const int n = (int)b->size_bytes;
    MPI_Request requests[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = MPI_Wtime();
    for (int i = 0; i < b->n_messages; i++) {
        MPI_Request *request = &requests[i % 2];
        MPI_Wait(request, MPI_STATUS_IGNORE);
        if (b->rank == 1) {
            MPI_Isend(b->buffer[i % 2], n, MPI_BYTE, 0, 0, MPI_COMM_WORLD, request);
        } else {
            MPI_Irecv(b->buffer[i % 2], n, MPI_BYTE, 1, 0, MPI_COMM_WORLD, request);
        }
    }
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    return gib_per_s(b, MPI_Wtime() - start);
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof *values, compare);
    return values[ROUNDS / 2];
}

static rates measure(bench *b)
{
    double stream[ROUNDS], ping_pong[ROUNDS], one_way[ROUNDS];
    for (int i = 0; i < 2; i++) {
        b->buffer[i] = aligned_alloc(KD_ARENA_ALIGN, b->size_bytes); /* as the stream does */
        must(b->buffer[i] == NULL, "aligned_alloc");
        memset(b->buffer[i], 1, b->size_bytes);
    }
    (void)run_ping_pong(b); /* warms up caches and MPI's own pools */
    for (int i = 0; i < ROUNDS; i++) {
        stream[i] = run_stream(b);
        ping_pong[i] = run_ping_pong(b);
        one_way[i] = run_one_way(b);
    }
    free(b->buffer[0]);
    free(b->buffer[1]);
    return (rates){median(stream), median(ping_pong), median(one_way)};
}

static void print_text(size_t size_bytes, const rates *r)
{
    (void)printf("%6zu KiB  stream %6.2f GiB/s  ping-pong %6.2f  one way %6.2f  "
                 "stream / ping-pong %.2f\n",
                 size_bytes >> 10, r->stream, r->ping_pong, r->one_way, r->stream / r->ping_pong);
}

static void print_json(size_t size_bytes, const rates *r, int first)
{
    (void)printf("%s{\"size_bytes\":%zu,\"stream_gib_s\":%.3f,\"ping_pong_gib_s\":%.3f,"
                 "\"one_way_gib_s\":%.3f,\"ratio\":%.3f}",
                 first ? "" : ",", size_bytes, r->stream, r->ping_pong, r->one_way,
                 r->stream / r->ping_pong);
}

static int run(int json)
{
    bench b = {0};
    double worst = 1e9;
    const int replicas = 1;
    if (kd_world_create(&b.world) || kd_world_assign(b.world, 1, 1, &replicas) ||
        kd_backend_create_cpu(KD_F32, 1, &b.be)) {
        return 64;
    }
    b.rank = kd_world_rank(b.world);
    if (json && b.rank == 0) {
        (void)printf("{\"sizes\":[");
    }
    for (size_t size = 64 << 10; size <= 32 << 20; size *= 2) {
        b.size_bytes = size;
        b.n_messages = (int)(BYTES_A_ROUND / size);
        const rates r = measure(&b);
        worst = r.stream / r.ping_pong < worst ? r.stream / r.ping_pong : worst;
        if (b.rank == 0 && json) {
            print_json(size, &r, size == 64 << 10);
        } else if (b.rank == 0) {
            print_text(size, &r);
        }
    }
    if (json && b.rank == 0) {
        (void)printf("],\"worst_ratio\":%.3f}\n", worst);
    }
    kd_backend_destroy(b.be);
    kd_world_destroy(b.world);
    return 0;
}

int main(int argc, char **argv)
{
    int provided = 0;
    const int json = argc == 2 && strcmp(argv[1], "--json") == 0;
    const int help = argc == 2 && strcmp(argv[1], "--help") == 0;
    if (argc > 1 && !json) {
        (void)fprintf(help ? stdout : stderr, "usage: mpirun -n 2 bench_stream [--json]\n");
        return help ? 0 : 64;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    const int rc = run(json);
    MPI_Finalize();
    return rc;
}
