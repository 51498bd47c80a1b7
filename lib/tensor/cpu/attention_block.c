#include <string.h>

#include "tensor/cpu/attention.h"

kd_tensor kd_attention_scores(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys)
{
    kd_tensor scores = kd_tensor_2d(data, dtype, rows, n_keys);
    scores.row_stride = kd_score_stride(n_keys);
    return scores;
}

kd_tensor kd_attention_head(const kd_attention *a,
                            kd_tensor t,
                            int64_t b,
                            int64_t h,
                            int64_t first,
                            int64_t n)
{
    const kd_tensor rows = kd_tensor_slice_rows(t, b * a->n_tokens + first, n);
    return kd_tensor_slice_columns(rows, h * a->head_dim, a->head_dim);
}

void kd_attention_pack(const kd_attention *a, void *packed, kd_tensor t, int64_t b, int64_t h)
{
    const kd_tensor head = kd_attention_head(a, t, b, h, 0, a->n_tokens);
    const size_t row_bytes = (size_t)a->head_dim * kd_dtype_bytes(t.dtype);
    for (int64_t i = 0; i < a->n_tokens; i++) {
        memcpy((char *)packed + (size_t)i * row_bytes, kd_row(head, i), row_bytes);
    }
}

static void check_matrix(kd_tensor t, kd_dtype dtype, int64_t rows, int64_t columns)
{
    KD_CHECK(t.dtype == dtype && t.n_dims == 2 && t.dims[0] == rows && t.dims[1] == columns);
}

void kd_attention_check(const kd_attention *a, kd_dtype compute)
{
    const int64_t n = a->n_batch * a->n_tokens;
    KD_CHECK(a->n_tokens > 0 && a->head_dim > 0);
    KD_CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
    check_matrix(a->q, compute, n, a->n_heads * a->head_dim);
    check_matrix(a->k, compute, n, a->n_kv_heads * a->head_dim);
    check_matrix(a->v, compute, n, a->n_kv_heads * a->head_dim);
    check_matrix(a->out, compute, n, a->n_heads * a->head_dim);
    KD_CHECK(a->lse.data == NULL ||
             (a->lse.dtype == KD_F32 && kd_tensor_elements(a->lse) == n * a->n_heads));
}

void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product)
{
    if (*st == KD_OK) {
        *st = kd_matmul(cache, product);
    }
}
