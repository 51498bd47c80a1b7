/*
 * backend.c - making and ending a back end, and the cut of rows into parts. Parts are fixed by the number
 * of threads, and the team is always whole: a schedule that followed the load would sum in another order
 * each time.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/level.h"
#include "tensor/kind.h"

void *kd_cpu_scratch(kd_backend *be, size_t size_bytes)
{
    void *memory = kd_scratch_take(&((kd_cpu *)be)->scratch, size_bytes);
    if (memory == NULL) {
        kd_backend_keep_fault(be, KD_ERR_NOMEM);
    }
    return memory;
}

size_t kd_cpu_scratch_mark(const kd_backend *be)
{
    return ((const kd_cpu *)be)->scratch.used_bytes;
}

void kd_cpu_scratch_rewind(kd_backend *be, size_t mark)
{
    kd_scratch_rewind(&((kd_cpu *)be)->scratch, mark);
}

static int parts_of(const kd_backend *be, int64_t n, int64_t grain)
{
    const int64_t n_worth = n / grain < 1 ? 1 : n / grain;
    return n_worth < be->n_threads ? (int)n_worth : be->n_threads;
}

int kd_prepare_rows(kd_backend *be, int64_t n, int64_t grain, kd_rows_fn *fn, const void *args)
{
    if (!((const kd_cpu *)be)->rehearses) {
        return kd_parallel_rows(be, n, grain, fn, args);
    }
    const int n_parts = parts_of(be, n, grain);
    for (int part = 0; part < n_parts; part++) {
        fn(args, part, n * part / n_parts, n * (part + 1) / n_parts);
    }
    return n_parts;
}

int kd_prepare_items(kd_backend *be, int64_t n, kd_rows_fn *fn, const void *args)
{
    if (!((const kd_cpu *)be)->rehearses) {
        return kd_parallel_rows(be, n, 1, fn, args);
    }
    const int n_parts = parts_of(be, n, 1);
    for (int part = 0; part < n_parts; part++) {
        fn(args, part, 0, 1);
    }
    return n_parts;
}

int kd_parallel_rows(kd_backend *be, int64_t n, int64_t grain, kd_rows_fn *fn, const void *args)
{
    const int n_parts = parts_of(be, n, grain);
    if (((const kd_cpu *)be)->rehearses) {
        return n_parts;
    }
    if (n_parts == 1) {
        fn(args, 0, 0, n);
        return 1;
    }
    /* Always the same team, though some of it may have nothing to do: see product.c. */
#pragma omp parallel for num_threads(be->n_threads) schedule(static, 1)
    for (int part = 0; part < n_parts; part++) {
        fn(args, part, n * part / n_parts, n * (part + 1) / n_parts);
    }
    return n_parts;
}

int64_t kd_grain(int64_t columns)
{
    const int64_t n_elements_worth = 1 << 14; /* a few microseconds of work */
    return columns >= n_elements_worth ? 1 : n_elements_worth / (columns < 1 ? 1 : columns);
}

void kd_sum_partials(float *sum, const float *partial, int n_parts, int64_t n, bool accumulate)
{
    if (!accumulate) {
        memset(sum, 0, (size_t)n * sizeof *sum);
    }
    for (int part = 0; part < n_parts; part++) {
        for (int64_t i = 0; i < n; i++) {
            sum[i] += partial[part * n + i];
        }
    }
}

void kd_cpu_destroy(kd_backend *be)
{
    kd_cpu *cpu = (kd_cpu *)be;
    for (int i = 0; cpu->lane != NULL && i < be->n_threads; i++) {
        kd_matmul_cache_destroy(cpu->lane[i]);
    }
    free(cpu->lane);
    kd_scratch_release(&cpu->scratch);
    free(cpu);
}

int64_t kd_cpu_products_made(const kd_backend *be)
{
    int64_t n = 0;
    for (int i = 0; i < be->n_threads; i++) {
        n += kd_matmul_made(((const kd_cpu *)be)->lane[i]);
    }
    return n;
}

kd_memory_usage kd_cpu_memory_usage(const kd_cpu *cpu)
{
    kd_memory_usage usage = {.held_bytes = cpu->held_bytes,
                             .scratch_bytes = cpu->scratch.peak_bytes};
    for (int i = 0; i < cpu->base.n_threads; i++) {
        usage.products_bytes += kd_matmul_cache_bytes(cpu->lane[i]);
    }
    return usage;
}

static void say_widened(void)
{
    kd_log(KD_LOG_INFO, "this processor does not multiply bf16: operands are widened to f32");
}

/* Most of what a rehearsal takes is never touched. */
static void *take_pages(void *user, size_t size_bytes)
{
    return kd_cpu_pages_tried(size_bytes, !((const kd_cpu *)user)->rehearses);
}

static void give_pages(void *user, void *memory)
{
    (void)user;
    kd_cpu_pages_free(memory);
}

static kd_status
create(kd_dtype compute, int n_threads, const char *level_name, bool rehearses, kd_backend **be_out)
{
    if ((compute != KD_F32 && compute != KD_BF16) || n_threads < 1 || n_threads > KD_THREADS_MAX) {
        return kd_fail(KD_ERR_ARG,
                       "CPU back end: found dtype %d and %d threads, expected f32 or bf16 and "
                       "1 to %d threads",
                       (int)compute, n_threads, KD_THREADS_MAX);
    }
    const kd_cpu_level *level = NULL;
    kd_status st = kd_cpu_level_choose(level_name, &level);
    if (st) {
        return st;
    }
    kd_cpu *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a back end");
    }
    cpu->base = (kd_backend){.ops = level->ops,
                             .device = {.kind = KD_DEVICE_CPU, .name = "cpu"},
                             .compute = compute,
                             .n_threads = n_threads};
    kd_kind_apply(KD_DEVICE_CPU, &cpu->base);
    cpu->rehearses = rehearses;
    cpu->scratch.source = (kd_scratch_source){take_pages, give_pages, cpu};
    cpu->lane = calloc((size_t)n_threads, sizeof *cpu->lane);
    st = cpu->lane == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for a back end") : KD_OK;
    for (int i = 0; i < n_threads && !st; i++) {
        st = kd_matmul_cache_create(level->convert_row, &cpu->lane[i]);
        if (!st && rehearses) {
            kd_matmul_cache_rehearse(cpu->lane[i]);
        }
    }
    if (st) {
        kd_cpu_destroy(&cpu->base);
        return st;
    }
    *be_out = &cpu->base;
    return KD_OK;
}

kd_status kd_backend_create_cpu(kd_dtype compute, int n_threads, kd_backend **be_out)
{
    return kd_backend_create_cpu_at(compute, n_threads, NULL, be_out);
}

kd_status
kd_backend_create_cpu_at(kd_dtype compute, int n_threads, const char *level, kd_backend **be_out)
{
    const kd_status st = create(compute, n_threads, level, false, be_out);
    if (!st && compute == KD_BF16 && !kd_cpu_multiplies_bf16()) {
        static pthread_once_t once = PTHREAD_ONCE_INIT;
        KD_CHECK(pthread_once(&once, say_widened) == 0);
    }
    return st;
}

kd_status kd_backend_create_rehearsal(kd_dtype compute, int n_threads, kd_backend **be_out)
{
    return create(compute, n_threads, NULL, true, be_out);
}
