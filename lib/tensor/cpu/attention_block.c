/*
 * attention_block.c - what both directions share: where a head's columns lie, how many keys a block sees
 * (rounded up, so that products meet few shapes), and where segments begin and end.
 */
#include <string.h>

#include "tensor/cpu/attention.h"

int64_t kd_attention_keys(int64_t n, int64_t n_span)
{
    int64_t step = KD_QUERY_BLOCK;
    while (16 * step < n) {
        step *= 2;
    }
    const int64_t rounded = (n + step - 1) / step * step;
    return rounded < n_span ? rounded : n_span;
}

kd_tensor kd_attention_scores(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys)
{
    kd_tensor scores = kd_tensor_2d(data, dtype, rows, n_keys);
    scores.row_stride = kd_score_stride(n_keys);
    return scores;
}

int64_t kd_attention_spans(const kd_attention *a, kd_span *spans_out)
{
    const int32_t *segments = a->segments.data;
    int64_t n_spans = 0, begin = 0;
    for (int64_t row = 1; row <= a->n_batch * a->n_tokens; row++) {
        const bool same =
            row % a->n_tokens != 0 && (segments == NULL || segments[row] == segments[begin]);
        if (same) {
            continue;
        }
        if (segments == NULL || segments[begin] >= 0) {
            spans_out[n_spans++] = (kd_span){begin, row - begin};
        }
        begin = row;
    }
    return n_spans;
}

void kd_attention_clear_padding(const kd_attention *a, kd_tensor t)
{
    const int32_t *segments = a->segments.data;
    for (int64_t row = 0; segments != NULL && row < kd_tensor_rows(t); row++) {
        if (segments[row] < 0) {
            memset(kd_row(t, row), 0, (size_t)kd_tensor_columns(t) * kd_dtype_bytes(t.dtype));
        }
    }
}

kd_tensor kd_attention_head(const kd_attention *a, kd_tensor t, kd_span rows, int64_t h)
{
    return kd_tensor_slice_columns(kd_tensor_slice_rows(t, rows.first, rows.n), h * a->head_dim,
                                   a->head_dim);
}

float *kd_attention_lse(const kd_attention *a, int64_t row, int64_t h)
{
    const int64_t b = row / a->n_tokens, at = row % a->n_tokens;
    return a->lse.data == NULL ? NULL
                               : (float *)a->lse.data + (b * a->n_heads + h) * a->n_tokens + at;
}

void kd_attention_pack(const kd_attention *a, void *packed, kd_tensor t, kd_span span, int64_t h)
{
    const kd_tensor head = kd_attention_head(a, t, span, h);
    const size_t row_bytes = (size_t)a->head_dim * kd_dtype_bytes(t.dtype);
    for (int64_t i = 0; i < span.n; i++) {
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
    KD_CHECK(a->segments.data == NULL ||
             (a->segments.dtype == KD_I32 && kd_tensor_elements(a->segments) == n));
    KD_CHECK(a->lse.data == NULL ||
             (a->lse.dtype == KD_F32 && kd_tensor_elements(a->lse) == n * a->n_heads));
}

void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product)
{
    if (*st == KD_OK) {
        *st = kd_matmul(cache, product);
    }
}
