/*
 * mpi_test.h - the little that a plain test program under mpirun needs.
 *
 * EXPECT ends every rank with MPI_Abort, so that none is left waiting for the one that failed.
 */
#ifndef KD_TESTS_MPI_TEST_H
#define KD_TESTS_MPI_TEST_H

#include <mpi.h>
#include <stdio.h>

#define EXPECT(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            (void)fprintf(stderr, "%s:%d: expected %s: ", __FILE__, __LINE__, #cond);              \
            (void)fprintf(stderr, __VA_ARGS__);                                                    \
            (void)fputc('\n', stderr);                                                             \
            (void)MPI_Abort(MPI_COMM_WORLD, 1);                                                    \
        }                                                                                          \
    } while (0)

#endif
