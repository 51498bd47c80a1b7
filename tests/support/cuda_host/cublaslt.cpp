/*
 * cublaslt.cpp - products by descriptors, on the emulated streams.
 */
#include "cublasLt.h"
#include "cuda_bf16.h"
#include "runtime.h"

#include <algorithm>

using namespace kd_host;

struct kd_host_lt_handle {
    int device;
};

struct kd_host_lt_desc {
    int32_t compute, scale, pointer_mode, trans_a, trans_b;
    uint32_t epilogue;
};

struct kd_host_lt_layout {
    uint32_t type;
    int32_t order;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch_count;
    int64_t batch_offset;
};

struct kd_host_lt_preference {
    uint64_t workspace_bytes;
    uint32_t reduction_mask, alignment[4];
};

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "unknown";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

size_t cublasLtGetVersion(void)
{
    return 130100;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    api_call call;
    if (check_device(current_device()) || sticky_error())
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new kd_host_lt_handle{current_device()};
    return CUBLAS_STATUS_SUCCESS;
}

template <class T> static cublasStatus_t destroy(T *object)
{
    if (!object)
        return CUBLAS_STATUS_INVALID_VALUE;
    delete object;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return destroy(handle);
}

/* The size has to be that of the attribute, as with the library. */
template <class T> static cublasStatus_t set(T *member, const void *value, size_t n_bytes)
{
    if (!value || n_bytes != sizeof *member)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(member, value, n_bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc,
                                        cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *desc = new kd_host_lt_desc{compute,     scale,       CUBLASLT_POINTER_MODE_HOST,
                                CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy(desc);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value,
                                              size_t n_bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return set(&desc->compute, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return set(&desc->scale, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return set(&desc->pointer_mode, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&desc->trans_a, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&desc->trans_b, value, n_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&desc->epilogue, value, n_bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout,
                                          cudaDataType type,
                                          uint64_t rows,
                                          uint64_t cols,
                                          int64_t ld)
{
    *layout = new kd_host_lt_layout{type, CUBLASLT_ORDER_COL, rows, cols, ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value,
                                                size_t n_bytes)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return set(&layout->type, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return set(&layout->order, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(&layout->rows, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(&layout->cols, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set(&layout->ld, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(&layout->batch_count, value, n_bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(&layout->batch_offset, value, n_bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference =
        new kd_host_lt_preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value,
                                                    size_t n_bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(&preference->workspace_bytes, value, n_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set(&preference->reduction_mask, value, n_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set(&preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                   value, n_bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

namespace
{
/* A matrix as the loops see it: element (i, j) is base[i * row + j * col] of its type. */
struct operand_view {
    char *base;
    bool bf16;
    int64_t row, col, batch;
};

struct product {
    operand_view a, b, c, d;
    int64_t m, n, k, n_batches;
    float alpha, beta;
};
} // namespace

static operand_view view(const kd_host_lt_layout &l, const void *base, bool transposed)
{
    bool rows_apart = (l.order == CUBLASLT_ORDER_ROW) != transposed;
    return {(char *)const_cast<void *>(base), l.type == CUDA_R_16BF, rows_apart ? l.ld : 1,
            rows_apart ? 1 : l.ld, l.batch_offset};
}

static float load(const operand_view &v, int64_t at)
{
    if (!v.bf16)
        return ((const float *)v.base)[at];
    return __bfloat162float(((const __nv_bfloat16 *)v.base)[at]);
}

static void store(const operand_view &v, int64_t at, float x)
{
    if (v.bf16)
        ((__nv_bfloat16 *)v.base)[at] = __float2bfloat16(x);
    else
        ((float *)v.base)[at] = x;
}

enum { TILE_M = 32, TILE_N = 64, TILE_K = 256 };

/* sum (m, n) += a (m, k) b (k, n), in the order of k. */
static void add_tile(float (*sum)[TILE_N],
                     const float (*a)[TILE_K],
                     const float (*b)[TILE_N],
                     int64_t m,
                     int64_t k)
{
    for (int64_t i = 0; i < m; i++) {
        for (int64_t x = 0; x < k; x++) {
            float f = a[i][x];
            for (int64_t j = 0; j < TILE_N; j++)
                sum[i][j] += f * b[x][j];
        }
    }
}

static void multiply_tile(const product &p, int64_t batch, int64_t i0, int64_t j0)
{
    static float a[TILE_M][TILE_K], b[TILE_K][TILE_N], sum[TILE_M][TILE_N];
    int64_t m = std::min<int64_t>(TILE_M, p.m - i0), n = std::min<int64_t>(TILE_N, p.n - j0);
    memset(sum, 0, sizeof sum);
    memset(b, 0, sizeof b);
    for (int64_t k0 = 0; k0 < p.k; k0 += TILE_K) {
        int64_t k = std::min<int64_t>(TILE_K, p.k - k0);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t x = 0; x < k; x++)
                a[i][x] = load(p.a, batch * p.a.batch + (i0 + i) * p.a.row + (k0 + x) * p.a.col);
        }
        for (int64_t x = 0; x < k; x++) {
            for (int64_t j = 0; j < n; j++)
                b[x][j] = load(p.b, batch * p.b.batch + (k0 + x) * p.b.row + (j0 + j) * p.b.col);
        }
        add_tile(sum, a, b, m, k);
    }
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            float x = p.alpha * sum[i][j];
            if (p.beta != 0) /* else C is not read: it may hold anything */
                x +=
                    p.beta * load(p.c, batch * p.c.batch + (i0 + i) * p.c.row + (j0 + j) * p.c.col);
            store(p.d, batch * p.d.batch + (i0 + i) * p.d.row + (j0 + j) * p.d.col, x);
        }
    }
}

static cudaError_t multiply(const product &p)
{
    for (int64_t batch = 0; batch < p.n_batches; batch++) {
        for (int64_t i = 0; i < p.m; i += TILE_M) {
            for (int64_t j = 0; j < p.n; j += TILE_N)
                multiply_tile(p, batch, i, j);
        }
    }
    return memory_fences_hold() ? cudaSuccess : cudaErrorLaunchFailure;
}

static size_t element_bytes(const kd_host_lt_layout &l)
{
    return l.type == CUDA_R_16BF ? 2 : 4;
}

/* Bytes from the first element to the end of the last. */
static size_t extent(const kd_host_lt_layout &l)
{
    bool row = l.order == CUBLASLT_ORDER_ROW;
    uint64_t lines = row ? l.rows : l.cols, width = row ? l.cols : l.rows;
    int64_t last = (l.batch_count - 1) * l.batch_offset + (int64_t)(lines - 1) * l.ld;
    return (size_t)(last + (int64_t)width) * element_bytes(l);
}

static cublasStatus_t check_layout(const kd_host_lt_layout &l)
{
    if (l.type != CUDA_R_32F && l.type != CUDA_R_16BF)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (l.order != CUBLASLT_ORDER_COL && l.order != CUBLASLT_ORDER_ROW)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    uint64_t width = l.order == CUBLASLT_ORDER_ROW ? l.cols : l.rows;
    if (!l.rows || !l.cols || l.ld < (int64_t)width || l.batch_count < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (l.type == CUDA_R_16BF && (l.ld % 8 || l.batch_offset % 8))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_shapes(const kd_host_lt_desc &desc,
                                   const kd_host_lt_layout &a,
                                   const kd_host_lt_layout &b,
                                   const kd_host_lt_layout &c,
                                   const kd_host_lt_layout &d)
{
    for (const kd_host_lt_layout *l : {&a, &b, &c, &d}) {
        if (cublasStatus_t status = check_layout(*l))
            return status;
    }
    if (desc.compute != CUBLAS_COMPUTE_32F || desc.scale != CUDA_R_32F ||
        desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT ||
        desc.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (a.type != b.type || c.type != d.type || (a.type == CUDA_R_32F && d.type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    uint64_t m = desc.trans_a ? a.cols : a.rows, k = desc.trans_a ? a.rows : a.cols;
    uint64_t k_of_b = desc.trans_b ? b.cols : b.rows, n = desc.trans_b ? b.rows : b.cols;
    if (k != k_of_b || d.rows != m || d.cols != n || c.rows != m || c.cols != n ||
        c.order != d.order)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (a.batch_count != b.batch_count || a.batch_count != c.batch_count ||
        a.batch_count != d.batch_count)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

/* The real library has slower algorithms for less; here they are refused, so that callers prove that they can
 * do without. */
static uint32_t required_alignment(const kd_host_lt_layout &l)
{
    return l.type == CUDA_R_16BF ? 16 : 4;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference,
                                              int n_asked,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_found)
{
    *n_found = 0;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !a || !b || !c || !d || !preference || n_asked < 1 || !results)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (cublasStatus_t status = check_shapes(*desc, *a, *b, *c, *d))
        return status;
    const kd_host_lt_layout *all[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        if (preference->alignment[i] < required_alignment(*all[i]))
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    results[0] = {};
    *n_found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* Where each matrix has to lie; a matrix that leaves its allocation faults on a device, if not always. */
static cublasStatus_t check_matrix(const kd_host_lt_layout &l, const void *p)
{
    if (!p)
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((uintptr_t)p % required_alignment(l))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

/* Under AddressSanitizer and in memory that was never allocated the loops themselves fault; this says it in
 * words, in every build. */
static cudaError_t check_extent(const char *name, const kd_host_lt_layout &l, const void *p)
{
    if (memory_place(p) == PINNED || (memory_place(p) >= 0 && memory_holds(p, extent(l))))
        return cudaSuccess;
    engine().fault = std::string("cublasLtMatmul: matrix ") + name + " of " +
                     std::to_string(l.rows) + " x " + std::to_string(l.cols) +
                     ", leading dimension " + std::to_string(l.ld) +
                     ", leaves the memory it lies in";
    return cudaErrorLaunchFailure;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle,
                              cublasLtMatmulDesc_t desc,
                              const void *alpha,
                              const void *a,
                              cublasLtMatrixLayout_t a_layout,
                              const void *b,
                              cublasLtMatrixLayout_t b_layout,
                              const void *beta,
                              const void *c,
                              cublasLtMatrixLayout_t c_layout,
                              void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *,
                              void *workspace,
                              size_t workspace_bytes,
                              cudaStream_t stream)
{
    api_call call;
    if (!handle)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!desc || !alpha || !beta || !a_layout || !b_layout || !c_layout || !d_layout)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (workspace_bytes && (!workspace || (uintptr_t)workspace % 256))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (sticky_error() || handle->device != current_device())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    const kd_host_lt_layout la = *a_layout, lb = *b_layout, lc = *c_layout, ld = *d_layout;
    cublasStatus_t status = check_shapes(*desc, la, lb, lc, ld);
    product p = {view(la, a, desc->trans_a),
                 view(lb, b, desc->trans_b),
                 view(lc, c, false),
                 view(ld, d, false),
                 (int64_t)ld.rows,
                 (int64_t)ld.cols,
                 (int64_t)(desc->trans_a ? la.rows : la.cols),
                 la.batch_count,
                 *(const float *)alpha,
                 *(const float *)beta};
    if (!status)
        status = check_matrix(la, a);
    if (!status)
        status = check_matrix(lb, b);
    if (!status && (c || p.beta != 0))
        status = check_matrix(lc, c);
    if (!status)
        status = check_matrix(ld, d);
    if (status)
        return status;
    auto run = [=] {
        cudaError_t error = check_extent("A", la, a);
        if (!error)
            error = check_extent("B", lb, b);
        if (!error && p.beta != 0)
            error = check_extent("C", lc, c);
        if (!error)
            error = check_extent("D", ld, d);
        return error ? error : multiply(p);
    };
    return enqueue(stream, {run, {}, current_device()}) ? CUBLAS_STATUS_EXECUTION_FAILED
                                                        : CUBLAS_STATUS_SUCCESS;
}
