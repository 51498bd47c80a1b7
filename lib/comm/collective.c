/* collective.c - sums over the students, in pieces of a fixed size. */
#include "comm/mpi_world.h"

static kd_status sum(kd_world *world, void *values, int64_t n, MPI_Datatype type, size_t size)
{
    char *at = values;
    for (int64_t done = 0; done < n;) {
        const int64_t left = n - done;
        const int count = (int)(left < KD_REDUCE_PIECE ? left : KD_REDUCE_PIECE);
        const kd_status st =
            kd_mpi_check(MPI_Allreduce(MPI_IN_PLACE, at, count, type, MPI_SUM, world->students),
                         "MPI_Allreduce");
        if (st) {
            return st;
        }
        at += (size_t)count * size;
        done += count;
    }
    return KD_OK;
}

static kd_status sum_f32(void *user, float *values, int64_t n)
{
    return sum(user, values, n, MPI_FLOAT, sizeof *values);
}

static kd_status sum_f64(void *user, double *values, int64_t n)
{
    return sum(user, values, n, MPI_DOUBLE, sizeof *values);
}

static kd_status sum_i64(void *user, int64_t *values, int64_t n)
{
    return sum(user, values, n, MPI_INT64_T, sizeof *values);
}

kd_reduce kd_world_reduce(kd_world *world)
{
    KD_CHECK(kd_world_role(world) == KD_ROLE_STUDENT);
    if (world->n_students == 1) {
        return kd_reduce_single();
    }
    return (kd_reduce){
        .user = world,
        .rank = kd_world_role_rank(world),
        .n_ranks = world->n_students,
        .takes_device = world->takes_device,
        .sum_f32 = sum_f32,
        .sum_f64 = sum_f64,
        .sum_i64 = sum_i64,
    };
}
