/*
 * bench - how fast each operation is on the first CUDA device, at the sizes of a mixture-of-experts layer of 30
 * billion parameters of which 3 are active.
 *
 *     gpu_bench [--tiny] [--json FILE] [NAME]
 *
 * Prints milliseconds, GB/s or TFLOP/s, and the share of the rate that the device's own copy or the library's
 * dense product has in the same run, and which fast kernels ran: KD_CUDA_KERNELS chooses (tensor/cuda/kernels.h),
 * for the whole of a run. NAME: only lines whose name contains it. --tiny: small sizes, which show that it runs; its
 * times mean nothing.
 */
#include "tests/gpu/bench.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

extern "C" {
#include "base/rng.h"
}

static const bench_sizes layer = {16384, 4096,   2048, 32,   4,       128,  128, 8,
                                  768,   128256, 8192, 4096, 1 << 28, 8192, 11};
static const bench_sizes tiny = {64, 32, 64, 4, 2, 16, 8, 2, 32, 200, 40, 48, 4096, 64, 1};

void bench_must(cudaError_t error, const char *what)
{
    if (error != cudaSuccess) {
        fprintf(stderr, "bench: %s: %s\n", what, cudaGetErrorString(error));
        exit(1);
    }
}

bool bench_wants(const bench *b, const char *name)
{
    return b->filter == nullptr || strstr(name, b->filter) != nullptr;
}

/* ---- tensors ---- */

static void *take(bench *b, size_t size_bytes)
{
    void *memory = b->be->ops->alloc(b->be, KD_MEMORY_DEVICE, size_bytes);
    if (memory == nullptr) {
        fprintf(stderr, "bench: no memory for %zu bytes: %s\n", size_bytes, kd_fault_text());
        exit(1);
    }
    b->memory.push_back(memory);
    return memory;
}

void bench_free(bench *b)
{
    if (kd_backend_wait(b->be)) {
        fprintf(stderr, "bench: %s\n", kd_fault_text());
        exit(1);
    }
    for (void *memory : b->memory)
        b->be->ops->free(b->be, memory);
    b->memory.clear();
}

/* The first `period` elements are there: doubled until all are. */
static void repeat(bench *b, void *data, size_t period_bytes, size_t size_bytes)
{
    for (size_t done = period_bytes; done < size_bytes; done *= 2)
        bench_must(cudaMemcpyAsync(static_cast<char *>(data) + done, data,
                                   std::min(done, size_bytes - done), cudaMemcpyDeviceToDevice,
                                   kd_cuda_of(b->be)->stream),
                   "random numbers");
}

static void fill(bench *b, kd_tensor t, float scale)
{
    const int64_t n = std::min<int64_t>(kd_tensor_elements(t), 65521);
    std::vector<float> wide(static_cast<size_t>(n));
    std::vector<__nv_bfloat16> narrow(static_cast<size_t>(n));

    for (size_t i = 0; i < wide.size(); i++) {
        wide[i] = scale * static_cast<float>(kd_rng_normal(b->memory.size(), i));
        narrow[i] = __float2bfloat16(wide[i]);
    }
    const void *values = narrow.data();
    if (t.dtype == KD_F32)
        values = wide.data();
    b->be->ops->upload(b->be, kd_tensor_1d(t.data, t.dtype, n), values);
    repeat(b, t.data, static_cast<size_t>(n) * kd_dtype_bytes(t.dtype), kd_tensor_bytes(t));
}

kd_tensor bench_zeros(bench *b, kd_dtype dtype, int64_t rows, int64_t columns)
{
    const kd_tensor shape = kd_tensor_2d(nullptr, dtype, rows, columns);
    return kd_tensor_2d(take(b, kd_tensor_bytes(shape)), dtype, rows, columns);
}

kd_tensor bench_random(bench *b, kd_dtype dtype, int64_t rows, int64_t columns, float scale)
{
    const kd_tensor t = bench_zeros(b, dtype, rows, columns);
    fill(b, t, scale);
    return t;
}

kd_tensor bench_random_1d(bench *b, kd_dtype dtype, int64_t n, float scale)
{
    return kd_tensor_1d(bench_random(b, dtype, 1, n, scale).data, dtype, n);
}

kd_tensor bench_ids(bench *b, int64_t n, int64_t end)
{
    std::vector<int32_t> ids(static_cast<size_t>(n));
    for (size_t i = 0; i < ids.size(); i++)
        ids[i] = static_cast<int32_t>(kd_rng_u64(7, i) % static_cast<uint64_t>(end));
    const kd_tensor t = kd_tensor_1d(bench_zeros(b, KD_I32, 1, n).data, KD_I32, n);
    b->be->ops->upload(b->be, t, ids.data());
    return t;
}

/* ---- telling ---- */

#define KERNEL_NAME(name, first, last, fast, sources, tests) #name,
static const char *const kernel_names[] = {KD_CUDA_KERNELS_EACH(KERNEL_NAME)};

/* The fast kernels that ran, each as "NAME", with ", " between. */
static std::string fast_kernels(const bench &b)
{
    std::string names;
    for (int i = 0; i < KD_CUDA_KERNELS; i++)
        if (kd_cuda_runs(b.be, static_cast<kd_cuda_kernel>(i)) > 0)
            names += std::string(names.empty() ? "" : ", ") + '"' + kernel_names[i] + '"';
    return names;
}

static double share_of(const bench_line &line, double copy_rate, double product_rate)
{
    const double seconds = line.ms * 1e-3;
    return line.flops > 0 ? line.flops / seconds / product_rate : line.bytes / seconds / copy_rate;
}

static void print_table(const bench &b, double copy_rate, double product_rate)
{
    printf("copy %.0f GB/s, bf16 product %.1f TFLOP/s\n%-22s %10s %10s %10s %7s\n",
           copy_rate * 1e-9, product_rate * 1e-12, "operation", "ms", "GB/s", "TFLOP/s", "share");
    for (const bench_line &line : b.lines) {
        const double seconds = line.ms * 1e-3;
        printf("%-22s %10.3f ", line.name, line.ms);
        if (line.flops > 0)
            printf("%10s %10.1f", "", line.flops / seconds * 1e-12);
        else
            printf("%10.0f %10s", line.bytes / seconds * 1e-9, "");
        printf(" %5.0f %%\n", 100 * share_of(line, copy_rate, product_rate));
    }
    printf("fast kernels: %s\n", fast_kernels(b).empty() ? "none" : fast_kernels(b).c_str());
}

static void write_json(const bench &b, const char *path, double copy_rate, double product_rate)
{
    FILE *file = fopen(path, "w");
    if (file == nullptr) {
        perror(path);
        exit(1);
    }
    /* Scratch is of the widest operation: no less than what the loss over the vocabulary takes. */
    fprintf(file,
            "{\"copy_bytes_per_s\": %.6g, \"product_flops_per_s\": %.6g, \"scratch_bytes\": %zu, "
            "\"fast_kernels\": [%s], \"operations\": [",
            copy_rate, product_rate, b.be->ops->memory_usage(b.be).scratch_bytes,
            fast_kernels(b).c_str());
    const char *comma = "\n";
    for (const bench_line &line : b.lines) {
        fprintf(file,
                "%s {\"name\": \"%s\", \"ms\": %.5f, \"bytes\": %.0f, \"flops\": %.0f, "
                "\"share\": %.4f}",
                comma, line.name, line.ms, line.bytes, line.flops,
                share_of(line, copy_rate, product_rate));
        comma = ",\n";
    }
    fprintf(file, "\n]}\n");
    if (fclose(file) != 0)
        exit(1);
}

int main(int argc, char **argv)
{
    const char *json = nullptr;
    bench b = {};

    b.s = layer;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--tiny") == 0)
            b.s = tiny;
        else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc)
            json = argv[++i];
        else
            b.filter = argv[i];
    }
    if (kd_backend_create_cuda(KD_BF16, 0, &b.be)) {
        fprintf(stderr, "bench: %s\n", kd_fault_text());
        return 1;
    }
    const double copy_rate = bench_copy_rate(&b), product_rate = bench_product_rate(&b);
    for (auto *group : {bench_rows, bench_attention, bench_experts, bench_parameters, bench_loss}) {
        group(&b);
        bench_free(&b);
    }
    print_table(b, copy_rate, product_rate);
    if (json != nullptr)
        write_json(b, json, copy_rate, product_rate);
    kd_backend_destroy(b.be);
    return b.lines.empty();
}
