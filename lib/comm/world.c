#include "comm/world.h"

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
    return st;
}

kd_status kd_world_create(kd_world **world_out)
{
    kd_world *world = malloc(sizeof *world);
    if (world == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for the world of ranks");
    }
    *world = (kd_world){.everyone = MPI_COMM_NULL, .students = MPI_COMM_NULL};
    const kd_status st = duplicate_world(world);
    if (st) {
        kd_world_destroy(world);
        return st;
    }
    *world_out = world;
    return KD_OK;
}

kd_status kd_world_assign(kd_world *world, int n_students, int n_teachers)
{
    KD_CHECK(world->n_students == 0 && n_students >= 1 && n_teachers >= 0);
    if (world->size != n_students + n_teachers) {
        return kd_fail(KD_ERR_INVALID,
                       "MPI started %d ranks, but the job wants %d (%d students and %d teachers)",
                       world->size, n_students + n_teachers, n_students, n_teachers);
    }
    const int color = world->rank < n_students ? 0 : MPI_UNDEFINED;
    const kd_status st = kd_mpi_check(
        MPI_Comm_split(world->everyone, color, world->rank, &world->students), "MPI_Comm_split");
    if (!st) {
        world->n_students = n_students;
        world->n_teachers = n_teachers;
    }
    return st;
}

void kd_world_destroy(kd_world *world)
{
    if (world == NULL) {
        return;
    }
    if (world->students != MPI_COMM_NULL) {
        (void)MPI_Comm_free(&world->students);
    }
    if (world->everyone != MPI_COMM_NULL) {
        (void)MPI_Comm_free(&world->everyone);
    }
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

int kd_world_role_rank(const kd_world *world)
{
    return kd_world_role(world) == KD_ROLE_STUDENT ? world->rank : world->rank - world->n_students;
}

int kd_world_students(const kd_world *world)
{
    return world->n_students;
}

int kd_world_teachers(const kd_world *world)
{
    return world->n_teachers;
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
