/*
 * mpi_world.h - what the files of lib/comm share and nobody else sees.
 *
 * Every communicator returns errors instead of ending the process, so each call's code goes through
 * kd_mpi_check().
 */
#ifndef KD_COMM_MPI_WORLD_H
#define KD_COMM_MPI_WORLD_H

#include <mpi.h>

#include "comm/world.h"

/* A teacher that has ranks of its own, and those whom it teaches. */
typedef struct kd_lesson {
    int n_replicas;
    int first_rank; /* of its replicas, among everyone                                       */
    MPI_Comm comm;  /* students first, then the replicas; MPI_COMM_NULL where there are none,
                       and on the ranks of other teachers                                    */
} kd_lesson;

struct kd_world {
    MPI_Comm everyone; /* a duplicate of MPI_COMM_WORLD                     */
    MPI_Comm students; /* MPI_COMM_NULL on teachers, and before roles are assigned */
    int rank, size;    /* of everyone                                       */
    int local_rank;    /* of everyone on this host                          */
    bool takes_device; /* buffers may be a device's memory                  */
    int n_students;    /* 0 before roles are assigned                       */
    int n_teachers;
    kd_lesson *lessons; /* (n_teachers), owned */
    int teacher;        /* whose replica this rank is; -1 on students */
};

/* KD_OK for MPI_SUCCESS; otherwise reports the call's name with MPI's text and returns KD_ERR_IO. */
KD_MUST_USE kd_status kd_mpi_check(int code, const char *call);

/*
 * Whether the MPI library takes buffers in a GPU's memory: KD_MPI_DEVICE_MEMORY of the environment, yes or no;
 * without it what the library says itself.
 */
bool kd_mpi_takes_device_memory(void);

/*
 * What a wait does between two tests of its requests. For the first patience_ns it only yields, since
 * messages move inside MPI calls; then it naps, since the other side is busy with something long.
 */
void kd_mpi_pause(uint64_t waited_ns, uint64_t patience_ns);

/* Completes one request that way; MPI_REQUEST_NULL is fine. */
KD_MUST_USE kd_status kd_mpi_wait(MPI_Request *request, uint64_t patience_ns);

#endif
