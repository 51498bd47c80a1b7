/*
 * matrix_rate.c - half a second of one product, on all ranks at once: alone, a rank would have the others'
 * share of the memory and of the processor's power as well.
 */
#include "tests/bench/matrix_rate.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

static void must(int failed)
{
    if (failed) {
        (void)fprintf(stderr, "the rate of products: %s\n", kd_fault_text());
        MPI_Abort(MPI_COMM_WORLD, 70);
    }
}

static void fill_ones(kd_backend *be, kd_tensor t)
{
    const size_t n = (size_t)kd_tensor_elements(t);
    float *ones = malloc(n * sizeof *ones);
    must(ones == NULL);
    for (size_t i = 0; i < n; i++) {
        ones[i] = 1.0f;
    }
    be->ops->copy(be, t, kd_tensor_2d(ones, KD_F32, kd_tensor_rows(t), kd_tensor_columns(t)));
    must(kd_backend_wait(be));
    free(ones);
}

double bench_matrix_rate(kd_backend *be)
{
    enum { M = 1024, K = 512, N = 1024, MIN_MS = 500 };

    kd_arena arena = {0};
    kd_tensor t[3];
    void *memory = NULL;
    for (int pass = 0; pass < 2; pass++) { /* the first counts */
        t[0] = kd_tensor_carve_2d(&arena, be->compute, M, K);
        t[1] = kd_tensor_carve_2d(&arena, be->compute, N, K);
        t[2] = kd_tensor_carve_2d(&arena, be->compute, M, N);
        if (pass == 0) {
            const size_t n_bytes = arena.used;
            memory = be->ops->alloc(be, KD_MEMORY_DEVICE, n_bytes);
            must(memory == NULL);
            kd_arena_init(&arena, memory, n_bytes);
        }
    }
    fill_ones(be, t[0]);
    fill_ones(be, t[1]);
    const kd_tensor x = t[0], w = t[1], y = t[2];
    be->ops->linear(be, y, x, w); /* creates the primitive */
    MPI_Barrier(MPI_COMM_WORLD);

    const double start_s = kd_clock_monotonic_s();
    double now_s = start_s;
    int n = 0;
    for (; now_s - start_s < MIN_MS / 1000.0; n++) {
        be->ops->linear(be, y, x, w);
        must(kd_backend_wait(be));
        now_s = kd_clock_monotonic_s();
    }
    be->ops->free(be, memory);
    return 2.0 * M * K * N * n / (now_s - start_s) / 1e9;
}
