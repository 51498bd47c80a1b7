/*
 * bench.h - what the files of gpu_bench share: tensors of random numbers on the device, and times.
 *
 * Times are medians of CUDA events on the back end's stream, in milliseconds. Everything ends the program with
 * a word where the device or its memory fails.
 */
#ifndef KD_TESTS_GPU_BENCH_H
#define KD_TESTS_GPU_BENCH_H

#include <algorithm>
#include <vector>

#include "tensor/cuda/cuda.h"

/* As model.h's letters: of a layer, and of the loss over the vocabulary. */
struct bench_sizes {
    int64_t n, t, c, heads, kv_heads, head_dim, experts, k, f; /* n tokens in sequences of t */
    int64_t vocab, loss_rows, teacher_c;
    int64_t params; /* of AdamW's slab */
    int64_t square; /* side of the dense product that measures the device */
    int n_runs;     /* timed, after two that are not */
};

/* One line: what is compared with the copy rate or with the product rate. */
struct bench_line {
    const char *name;
    double ms;
    double bytes; /* that must be moved at least: each operand once; 0 where products count */
    double flops; /* that the mathematics needs                                            */
};

struct bench {
    kd_backend *be;
    bench_sizes s;
    const char *filter; /* only lines whose name contains it; or NULL */
    std::vector<void *> memory;
    std::vector<bench_line> lines;
};

/* Of normal numbers times scale, whose period is a prime; freed by bench_free(). */
kd_tensor bench_random(bench *b, kd_dtype dtype, int64_t rows, int64_t columns, float scale);
kd_tensor bench_random_1d(bench *b, kd_dtype dtype, int64_t n, float scale);
kd_tensor bench_zeros(bench *b, kd_dtype dtype, int64_t rows, int64_t columns);
kd_tensor bench_ids(bench *b, int64_t n, int64_t end); /* (n) i32 below end */
void bench_free(bench *b);

bool bench_wants(const bench *b, const char *name);

/* What the device answered, which must be success. */
void bench_must(cudaError_t error, const char *what);

/* Median time of run(), which queues work on the back end. */
template <class F> double bench_time(bench *b, F run)
{
    std::vector<double> times;
    cudaEvent_t at[2];
    cudaStream_t stream = kd_cuda_of(b->be)->stream;

    bench_must(cudaEventCreate(&at[0]), "an event");
    bench_must(cudaEventCreate(&at[1]), "an event");
    for (int i = -2; i < b->s.n_runs; i++) {
        float ms = 0;
        bench_must(cudaEventRecord(at[0], stream), "an event");
        run();
        bench_must(cudaEventRecord(at[1], stream), "an event");
        bench_must(cudaEventSynchronize(at[1]), "what was timed");
        bench_must(cudaEventElapsedTime(&ms, at[0], at[1]), "its time");
        if (i >= 0)
            times.push_back(static_cast<double>(ms));
    }
    bench_must(cudaEventDestroy(at[0]), "an event");
    bench_must(cudaEventDestroy(at[1]), "an event");
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
}

/* Times run() as a line, if it is asked for. */
template <class F> void bench_run(bench *b, const char *name, double bytes, double flops, F run)
{
    if (bench_wants(b, name))
        b->lines.push_back({name, bench_time(b, run), bytes, flops});
}

/* What the device does at best: bytes a second read and written by its own copy, and flops a second of the
 * library's dense bf16 product. */
double bench_copy_rate(bench *b);
double bench_product_rate(bench *b);

/* The operations of a layer, those around it, and the loss; each frees what it took. */
void bench_rows(bench *b);
void bench_attention(bench *b);
void bench_experts(bench *b);
void bench_parameters(bench *b);
void bench_loss(bench *b);

#endif
