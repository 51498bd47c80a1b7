/*
 * world.c - communicators for those who talk to each other, and how ranks agree on a fault.
 *
 * Ranks of other teachers take no part in a teacher's stream, so each teacher has a communicator with the
 * students. Waiting naps after a while: teachers may wait for minutes, on cores that others need.
 */
#include "comm/world.h"

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/mpi_world.h"

#define FAULT_BYTES 1024

typedef struct shared_fault {
    int status; /* a kd_status */
    char text[FAULT_BYTES];
} shared_fault;

kd_status kd_mpi_check(int code, const char *call)
{
    if (code == MPI_SUCCESS) {
        return KD_OK;
    }
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;
    (void)MPI_Error_string(code, text, &n);
    return kd_fail(KD_ERR_IO, "%s failed: %s", call, text);
}

void kd_mpi_pause(uint64_t waited_ns, uint64_t patience_ns)
{
    const struct timespec nap = {.tv_nsec = 200000};
    if (waited_ns < patience_ns) {
        (void)sched_yield();
    } else {
        (void)nanosleep(&nap, NULL);
    }
}

kd_status kd_mpi_wait(MPI_Request *request, uint64_t patience_ns)
{
    const uint64_t start_ns = kd_clock_monotonic_ns();
    for (;;) {
        int done = 0;
        const kd_status st = kd_mpi_check(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test");
        if (st || done) {
            return st;
        }
        kd_mpi_pause(kd_clock_monotonic_ns() - start_ns, patience_ns);
    }
}

static kd_status find_local_rank(kd_world *world)
{
    MPI_Comm host = MPI_COMM_NULL;
    kd_status st = kd_mpi_check(MPI_Comm_split_type(world->everyone, MPI_COMM_TYPE_SHARED,
                                                    world->rank, MPI_INFO_NULL, &host),
                                "MPI_Comm_split_type");
    if (!st) {
        st = kd_mpi_check(MPI_Comm_rank(host, &world->local_rank), "MPI_Comm_rank");
        (void)MPI_Comm_free(&host);
    }
    return st;
}

static kd_status duplicate_world(kd_world *world)
{
    /* Communicators made from this one inherit the handler. */
    kd_status st = kd_mpi_check(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN),
                                "MPI_Comm_set_errhandler");
    if (!st) {
        st = kd_mpi_check(MPI_Comm_rank(MPI_COMM_WORLD, &world->rank), "MPI_Comm_rank");
    }
    if (!st) {
        st = kd_mpi_check(MPI_Comm_size(MPI_COMM_WORLD, &world->size), "MPI_Comm_size");
    }
    if (!st) {
        st = kd_mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &world->everyone), "MPI_Comm_dup");
    }
    return st ? st : find_local_rank(world);
}

/* What kd_world_agree() is to those who have no world yet: a rank without memory is not waited for. */
static kd_status agree_on_memory(const void *mine)
{
    int lacking = mine == NULL ? 1 : 0;
    const kd_status st =
        kd_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &lacking, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD),
                     "MPI_Allreduce");
    return st || lacking == 0
               ? st
               : kd_fail(KD_ERR_NOMEM, "no memory for the world of ranks on %d of them", lacking);
}

kd_status kd_world_create(kd_world **world_out)
{
    kd_world *world = malloc(sizeof *world);
    kd_status st = agree_on_memory(world);
    if (st) {
        free(world);
        return st;
    }
    KD_CHECK(world != NULL); /* or the ranks had not agreed */
    *world = (kd_world){.everyone = MPI_COMM_NULL,
                        .students = MPI_COMM_NULL,
                        .teacher = -1,
                        .takes_device = kd_mpi_takes_device_memory()};
    st = duplicate_world(world);
    if (st) {
        kd_world_destroy(world);
        return st;
    }
    *world_out = world;
    return KD_OK;
}

static bool takes_part(const kd_world *world, int teacher)
{
    return world->rank < world->n_students || world->teacher == teacher;
}

/* Where each teacher's replicas are, and whose this rank is. */
static kd_status
place_teachers(kd_world *world, int n_students, int n_teachers, const int *replicas)
{
    int64_t wanted = n_students;
    world->lessons = calloc((size_t)n_teachers + 1, sizeof *world->lessons);
    if (world->lessons == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d teachers", n_teachers);
    }
    for (int i = 0; i < n_teachers; i++) {
        KD_CHECK(replicas[i] >= 0);
        world->lessons[i] = (kd_lesson){replicas[i], (int)wanted, MPI_COMM_NULL};
        if (world->rank >= wanted && world->rank < wanted + replicas[i]) {
            world->teacher = i;
        }
        wanted += replicas[i];
    }
    world->n_teachers = n_teachers;
    if (world->size != wanted) {
        return kd_fail(
            KD_ERR_INVALID,
            "MPI started %d ranks, but the job wants %lld (%d students and %lld teachers)",
            world->size, (long long)wanted, n_students, (long long)(wanted - n_students));
    }
    world->n_students = n_students;
    return KD_OK;
}

static kd_status split(kd_world *world, bool in, MPI_Comm *comm_out)
{
    return kd_mpi_check(
        MPI_Comm_split(world->everyone, in ? 0 : MPI_UNDEFINED, world->rank, comm_out),
        "MPI_Comm_split");
}

kd_status kd_world_assign(kd_world *world, int n_students, int n_teachers, const int *replicas)
{
    KD_CHECK(world->lessons == NULL && n_students >= 1 && n_teachers >= 0);
    kd_status st = kd_world_agree(world, place_teachers(world, n_students, n_teachers, replicas));
    if (st) {
        return st;
    }
    st = split(world, world->rank < n_students, &world->students);
    for (int i = 0; !st && i < n_teachers; i++) {
        if (replicas[i] > 0) {
            st = split(world, takes_part(world, i), &world->lessons[i].comm);
        }
    }
    return st;
}

static void free_communicator(MPI_Comm *comm)
{
    if (*comm != MPI_COMM_NULL) {
        (void)MPI_Comm_free(comm);
    }
}

void kd_world_destroy(kd_world *world)
{
    if (world == NULL) {
        return;
    }
    for (int i = 0; i < world->n_teachers; i++) {
        free_communicator(&world->lessons[i].comm);
    }
    free_communicator(&world->students);
    free_communicator(&world->everyone);
    free(world->lessons);
    free(world);
}

kd_role kd_world_role(const kd_world *world)
{
    KD_CHECK(world->n_students > 0);
    return world->rank < world->n_students ? KD_ROLE_STUDENT : KD_ROLE_TEACHER;
}

int kd_world_size(const kd_world *world)
{
    return world->size;
}

int kd_world_rank(const kd_world *world)
{
    return world->rank;
}

int kd_world_local_rank(const kd_world *world)
{
    return world->local_rank;
}

int kd_world_role_rank(const kd_world *world)
{
    if (kd_world_role(world) == KD_ROLE_STUDENT) {
        return world->rank;
    }
    return world->rank - world->lessons[world->teacher].first_rank;
}

int kd_world_teacher(const kd_world *world)
{
    KD_CHECK(kd_world_role(world) == KD_ROLE_TEACHER);
    return world->teacher;
}

int kd_world_students(const kd_world *world)
{
    return world->n_students;
}

int kd_world_replicas(const kd_world *world, int teacher)
{
    KD_CHECK(teacher >= 0 && teacher < world->n_teachers);
    return world->lessons[teacher].n_replicas;
}

bool kd_world_is_leader(const kd_world *world)
{
    return world->rank == 0;
}

kd_status kd_world_broadcast(kd_world *world, void *bytes, int size)
{
    return kd_mpi_check(MPI_Bcast(bytes, size, MPI_BYTE, 0, world->everyone), "MPI_Bcast");
}

/* The lowest rank that comes with a fault, or the world's size. */
static kd_status find_failed(kd_world *world, kd_status mine, int *failed_out)
{
    const int all_fine = world->size;
    int candidate = mine ? world->rank : all_fine;
    int lowest = all_fine;
    MPI_Request request;

    kd_status st = kd_mpi_check(
        MPI_Iallreduce(&candidate, &lowest, 1, MPI_INT, MPI_MIN, world->everyone, &request),
        "MPI_Iallreduce");
    if (!st) {
        st = kd_mpi_wait(&request, 0);
    }
    if (!st) {
        *failed_out = lowest;
    }
    return st;
}

kd_status kd_world_sum(kd_world *world, int64_t *values, int n)
{
    return kd_mpi_check(
        MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_INT64_T, MPI_SUM, world->everyone),
        "MPI_Allreduce");
}

kd_status kd_world_agree(kd_world *world, kd_status mine)
{
    shared_fault fault = {.status = (int)mine};
    int failed = 0;

    kd_status st = find_failed(world, mine, &failed);
    if (st) {
        return mine ? mine : st;
    }
    if (failed == world->size) {
        return KD_OK;
    }
    const size_t length = strnlen(kd_fault_text(), FAULT_BYTES - 1);
    memcpy(fault.text, kd_fault_text(), length);
    st = kd_mpi_check(MPI_Bcast(&fault, sizeof fault, MPI_BYTE, failed, world->everyone),
                      "MPI_Bcast");
    if (st) {
        return mine ? mine : st;
    }
    if (failed == world->rank) {
        return mine;
    }
    KD_CHECK(fault.status > KD_OK && fault.status < KD_STATUS_COUNT);
    return kd_fail((kd_status)fault.status, "rank %d: %s", failed, fault.text);
}

kd_status kd_world_share_text(kd_world *world, const char *mine, char **text_out)
{
    uint64_t size = mine != NULL ? strlen(mine) : 0;
    kd_status st = kd_world_broadcast(world, &size, (int)sizeof size);
    if (st) {
        return st;
    }
    char *text = size < INT_MAX ? calloc(1, (size_t)size + 1) : NULL;
    st = kd_world_agree(
        world, text == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for the leader's text") : KD_OK);
    if (!st) {
        KD_CHECK(text != NULL); /* or the ranks had not agreed */
        if (mine != NULL) {
            memcpy(text, mine, (size_t)size);
        }
        st = kd_world_broadcast(world, text, (int)size);
    }
    if (st) {
        free(text);
        return st;
    }
    *text_out = text;
    return KD_OK;
}
