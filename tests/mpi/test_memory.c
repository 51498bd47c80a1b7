/*
 * Fails every allocation of one rank in turn, by the linker's --wrap, below what all ranks do together:
 * none is left waiting, and all end with the same status.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "mpi_test.h"
#include "worker/resolved.h"
#include "worker/roles.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);

static long until_failure = -1; /* allocations that succeed first; negative: all do */

static bool fails_now(void)
{
    return until_failure >= 0 && until_failure-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails_now() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : __real_calloc(n, size);
}

/* One student, and one teacher with all other ranks. */
typedef struct small_job {
    Kd__Job message;
    Kd__Student student;
    Kd__Training training;
    Kd__Teacher teacher, *teachers[1];
    Kd__Resources of_student, of_teacher;
} small_job;

static void init_job(small_job *job, int size)
{
    kd__job__init(&job->message);
    kd__student__init(&job->student);
    kd__training__init(&job->training);
    kd__teacher__init(&job->teacher);
    kd__resources__init(&job->of_student);
    kd__resources__init(&job->of_teacher);
    job->of_student.ranks = 1;
    job->of_teacher.ranks = (uint32_t)size - 1;
    job->student.resources = &job->of_student;
    job->teacher.resources = &job->of_teacher;
    job->teachers[0] = &job->teacher;
    job->message.student = &job->student;
    job->message.training = &job->training;
    job->message.teachers = job->teachers;
    job->message.n_teachers = 1;
}

static kd_status begin(worker *w)
{
    kd_status st = kd_world_create(&w->world);
    if (!st) {
        st = roles_assign(w);
    }
    return st ? st : resolved_settle_devices(w);
}

/* True if an allocation failed. */
static bool try(int size, int rank, int failing_rank, long n)
{
    small_job job;
    worker w = {.job = &job.message};
    init_job(&job, size);
    until_failure = rank == failing_rank ? n : -1;
    const kd_status st = begin(&w);
    int failed = rank == failing_rank && until_failure < 0, mine = (int)st, least, most;
    until_failure = -1;
    kd_world_destroy(w.world);
    MPI_Bcast(&failed, 1, MPI_INT, failing_rank, MPI_COMM_WORLD);
    MPI_Allreduce(&mine, &least, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Allreduce(&mine, &most, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    EXPECT(least == most, "allocation %ld of rank %d: status %d here, others %d to %d", n,
           failing_rank, mine, least, most);
    EXPECT(st == (failed ? KD_ERR_NOMEM : KD_OK), "allocation %ld: %s", n, kd_fault_text());
    return failed;
}

int main(int argc, char **argv)
{
    int provided = 0, size = 0, rank = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    kd_fault_quiet(1);
    for (int failing_rank = 0; failing_rank < size; failing_rank++) {
        long n = 0;
        while (try(size, rank, failing_rank, n)) {
            n++;
        }
        EXPECT(n >= 4, "only %ld allocations failed", n);
    }
    MPI_Finalize();
    return 0;
}
