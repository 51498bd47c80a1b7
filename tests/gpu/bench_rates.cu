/* bench_rates.cu - what the device does at best, by the runtime's copy and by the library's dense product. */
#include <cublasLt.h>

#include "tests/gpu/bench.h"

#include <cstdio>
#include <cstdlib>

double bench_copy_rate(bench *b)
{
    const int64_t n = b->s.square * b->s.square * 4; /* 512 MiB of bf16 */
    const kd_tensor from = bench_random(b, KD_BF16, 1, n, 1.0f), to = bench_zeros(b, KD_BF16, 1, n);
    const double ms = bench_time(b, [&] {
        bench_must(cudaMemcpyAsync(to.data, from.data, kd_tensor_bytes(from),
                                   cudaMemcpyDeviceToDevice, kd_cuda_of(b->be)->stream),
                   "a copy");
    });
    bench_free(b);
    return 2.0 * static_cast<double>(kd_tensor_bytes(from)) / (ms * 1e-3);
}

static void must(cublasStatus_t status, const char *what)
{
    if (status != CUBLAS_STATUS_SUCCESS) {
        fprintf(stderr, "bench: the library: %s: %d\n", what, static_cast<int>(status));
        exit(1);
    }
}

/* c (n, n) bf16 = a b^T, in the library's column order; workspace of 32 MiB, the first algorithm it offers. */
double bench_product_rate(bench *b)
{
    const uint64_t n = static_cast<uint64_t>(b->s.square), workspace_bytes = 32 << 20;
    const int64_t side = b->s.square;
    const kd_tensor x = bench_random(b, KD_BF16, side, side, 1.0f),
                    y = bench_random(b, KD_BF16, side, side, 1.0f),
                    z = bench_zeros(b, KD_BF16, side, side),
                    workspace = bench_zeros(b, KD_F32, 1, workspace_bytes / 4);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const float one = 1.0f, none = 0.0f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t square;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found = {};
    int n_found = 0;

    must(cublasLtCreate(&handle), "a handle");
    must(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product");
    must(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                        sizeof transposed),
         "a product");
    must(cublasLtMatrixLayoutCreate(&square, CUDA_R_16BF, n, n, side), "a matrix");
    must(cublasLtMatmulPreferenceCreate(&preference), "a preference");
    must(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &workspace_bytes, sizeof workspace_bytes),
         "a preference");
    must(cublasLtMatmulAlgoGetHeuristic(handle, product, square, square, square, square, preference,
                                        1, &found, &n_found),
         "an algorithm");
    const double ms = bench_time(b, [&] {
        must(cublasLtMatmul(handle, product, &one, x.data, square, y.data, square, &none, z.data,
                            square, z.data, square, &found.algo, workspace.data, workspace_bytes,
                            kd_cuda_of(b->be)->stream),
             "a product");
    });
    must(cublasLtMatmulPreferenceDestroy(preference), "an end");
    must(cublasLtMatrixLayoutDestroy(square), "an end");
    must(cublasLtMatmulDescDestroy(product), "an end");
    must(cublasLtDestroy(handle), "an end");
    bench_free(b);
    const double size = static_cast<double>(side);
    return 2.0 * size * size * size / (ms * 1e-3);
}
