/*
 * matmul.cu - cuBLASLt behind a table. The library thinks in columns: a matrix of ours is the transpose of
 * what it sees, so c^T = op(b)^T op(a)^T is what it is asked for, with b as its first operand.
 *
 * f32 is multiplied as f32 (no TF32); bf16 with f32 sums. Parts of a sum are added in f32 or not split at all
 * (the reduction mask): others would be rounded in between, or added in the order in which they come.
 */
#include "tensor/cuda/matmul.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cublasLt.h>

#include "tensor/cuda/plain_product.h"
#include "tensor/product_table.h"

/* What split sums take: 32 MiB is what the library's authors advise for GPUs of this kind. */
static constexpr size_t WORKSPACE_BYTES = size_t(32) << 20;

/* Alignments beyond it make no difference to kernels. A choice that hung on more would hang on where memory
 * happens to lie. */
static constexpr int64_t ALIGNMENT_MAX = 16;

/* How one product is made. Zeroed: by the plain kernel. */
struct way {
    cublasLtMatmulDesc_t product; /* NULL: the library has no algorithm */
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
};

struct kd_cuda_products {
    cublasLtHandle_t handle;
    void *workspace;
    kd_product_table table;
    way ways[KD_PRODUCTS_MAX]; /* way i is that of the table's place i */
};

static kd_status library_fault(const char *what, cublasStatus_t status)
{
    return kd_fail(status == CUBLAS_STATUS_ALLOC_FAILED ? KD_ERR_NOMEM : KD_ERR_IO,
                   "cuBLASLt: cannot %s: %s", what, cublasLtGetStatusString(status));
}

static kd_status product_fault(const char *what, cublasStatus_t status, const kd_product_key *key)
{
    char text[160];

    (void)snprintf(text, sizeof text,
                   "%s the %s product (%" PRId64 " x %" PRId64 ") (%" PRId64 " x %" PRId64 ")",
                   what, kd_dtype_name(static_cast<kd_dtype>(key->dtype_ab)), key->m, key->k,
                   key->k, key->n);
    return library_fault(text, status);
}

kd_status kd_cuda_products_create(const char *device, kd_cuda_products **products_out)
{
    kd_cuda_products *products = static_cast<kd_cuda_products *>(calloc(1, sizeof *products));

    if (products == nullptr) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a table of products");
    }
    const cublasStatus_t status = cublasLtCreate(&products->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        free(products);
        return library_fault("be made ready", status);
    }
    const cudaError_t error = cudaMalloc(&products->workspace, WORKSPACE_BYTES);
    if (error != cudaSuccess) {
        (void)cublasLtDestroy(products->handle);
        free(products);
        return kd_cuda_refusal(device, "the device, for products", WORKSPACE_BYTES, error);
    }
    *products_out = products;
    return KD_OK;
}

static void way_release(way *w)
{
    if (w->c != nullptr) {
        (void)cublasLtMatrixLayoutDestroy(w->c);
    }
    if (w->b != nullptr) {
        (void)cublasLtMatrixLayoutDestroy(w->b);
    }
    if (w->a != nullptr) {
        (void)cublasLtMatrixLayoutDestroy(w->a);
    }
    if (w->product != nullptr) {
        (void)cublasLtMatmulDescDestroy(w->product);
    }
    *w = {};
}

void kd_cuda_products_destroy(kd_cuda_products *products)
{
    if (products == nullptr) {
        return;
    }
    for (int i = 0; i < products->table.n_used; i++) {
        way_release(&products->ways[i]);
    }
    (void)cudaFree(products->workspace);
    (void)cublasLtDestroy(products->handle);
    free(products);
}

size_t kd_cuda_products_bytes(const kd_cuda_products *products)
{
    return products == nullptr ? 0 : WORKSPACE_BYTES;
}

/* ---- choosing a way ---- */

static cudaDataType_t library_type(int64_t dtype)
{
    return dtype == KD_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasStatus_t
set_operation(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which, bool transposes)
{
    const cublasOperation_t operation = transposes ? CUBLAS_OP_T : CUBLAS_OP_N;
    return cublasLtMatmulDescSetAttribute(desc, which, &operation, sizeof operation);
}

/* The product and its matrices in the library's words; what was made stays with the way. */
static cublasStatus_t describe(way *w, const kd_product_key *key)
{
    const cudaDataType_t type = library_type(key->dtype_ab);

    cublasStatus_t status = cublasLtMatmulDescCreate(&w->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_operation(w->product, CUBLASLT_MATMUL_DESC_TRANSA, key->trans_b != 0);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = set_operation(w->product, CUBLASLT_MATMUL_DESC_TRANSB, key->trans_a != 0);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutCreate(
            &w->b, type, static_cast<uint64_t>(key->trans_b ? key->k : key->n),
            static_cast<uint64_t>(key->trans_b ? key->n : key->k), key->stride_b);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutCreate(
            &w->a, type, static_cast<uint64_t>(key->trans_a ? key->m : key->k),
            static_cast<uint64_t>(key->trans_a ? key->k : key->m), key->stride_a);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatrixLayoutCreate(&w->c, library_type(key->dtype_c),
                                            static_cast<uint64_t>(key->n),
                                            static_cast<uint64_t>(key->m), key->stride_c);
    }
    return status;
}

template <class T>
static cublasStatus_t
prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t which, T value)
{
    return cublasLtMatmulPreferenceSetAttribute(preference, which, &value, sizeof value);
}

/* What an algorithm may use and count on. */
static cublasStatus_t prefer_all(cublasLtMatmulPreference_t preference, const kd_product_key *key)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t which;
        int64_t value;
    } words[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->align_c},
    };

    const uint64_t workspace_bytes = WORKSPACE_BYTES;

    cublasStatus_t status =
        prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
    for (size_t i = 0; i < sizeof words / sizeof *words && status == CUBLAS_STATUS_SUCCESS; i++) {
        status = prefer(preference, words[i].which, static_cast<uint32_t>(words[i].value));
    }
    return status;
}

/* The heuristic's first algorithm; CUBLAS_STATUS_NOT_SUPPORTED: it knows none. */
static cublasStatus_t choose(cublasLtHandle_t handle, way *w, const kd_product_key *key)
{
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found = {};
    int n_found = 0;

    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&preference);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    status = prefer_all(preference, key);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = cublasLtMatmulAlgoGetHeuristic(handle, w->product, w->b, w->a, w->c, w->c,
                                                preference, 1, &found, &n_found);
    }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = n_found > 0 ? found.state : CUBLAS_STATUS_NOT_SUPPORTED;
        w->algorithm = found.algo;
    }
    return status;
}

/* The way for a key: kept, or found now. NULL: the back end has a fault. */
static const way *way_for(kd_backend *be, kd_cuda_products *products, const kd_product_key *key)
{
    way made = {};
    bool evicted = false;

    int place = kd_product_table_find(&products->table, key);
    if (place >= 0) {
        return &products->ways[place];
    }
    cublasStatus_t status = describe(&made, key);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = choose(products->handle, &made, key);
    }
    if (status != CUBLAS_STATUS_SUCCESS) {
        way_release(&made);
    }
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED) {
        kd_backend_keep_fault(be, product_fault("prepare", status, key));
        return nullptr;
    }
    place = kd_product_table_add(&products->table, key, &evicted);
    if (evicted) {
        way_release(&products->ways[place]);
    }
    products->ways[place] = made;
    return &products->ways[place];
}

/* ---- making a product ---- */

static int64_t alignment(kd_tensor t)
{
    const int64_t at = static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data) % ALIGNMENT_MAX);
    return at == 0 ? ALIGNMENT_MAX : at & -at;
}

static void run(kd_backend *be, const way *w, const kd_product *p, const kd_product_key *key)
{
    const kd_cuda *cuda = kd_cuda_of(be);
    const float alpha = 1.0f, beta = p->accumulate ? 1.0f : 0.0f;
    const cublasStatus_t status =
        cublasLtMatmul(cuda->products->handle, w->product, &alpha, p->b.data, w->b, p->a.data, w->a,
                       &beta, p->c.data, w->c, p->c.data, w->c, &w->algorithm,
                       cuda->products->workspace, WORKSPACE_BYTES, cuda->stream);

    if (status != CUBLAS_STATUS_SUCCESS) {
        kd_backend_keep_fault(be, product_fault("run", status, key));
    }
}

void kd_cuda_product(kd_backend *be, const kd_product *product)
{
    kd_product_key key = kd_product_key_of(product);

    if (be->fault != KD_OK || key.m == 0 || key.n == 0) {
        return;
    }
    if (key.k == 0) {
        if (!product->accumulate) {
            kd_cuda_zero(be, product->c);
        }
        return;
    }
    key.align_a = alignment(product->a);
    key.align_b = alignment(product->b);
    key.align_c = alignment(product->c);
    const way *w = way_for(be, kd_cuda_of(be)->products, &key);
    if (w == nullptr) {
        return;
    }
    if (w->product == nullptr) {
        kd_cuda_plain_product(be, product);
    } else {
        run(be, w, product, &key);
    }
}
