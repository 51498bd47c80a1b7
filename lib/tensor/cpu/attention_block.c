/*
 * attention_block.c - what both directions share: where a head's columns lie, how many keys a block sees
 * (rounded up, so that products meet few shapes), and where segments begin and end.
 */
#include <string.h>

#include "tensor/cpu/attention.h"

/* Up to the next multiple of `step`, which doubles until there are at most n_steps of it below n. */
static int64_t round_up(int64_t n, int64_t step, int64_t n_steps)
{
    while (n_steps * step < n) {
        step *= 2;
    }
    return (n + step - 1) / step * step;
}

static int64_t least(int64_t x, int64_t y)
{
    return x < y ? x : y;
}

int64_t kd_attention_padded(int64_t n)
{
    return round_up(n, KD_SCORE_PAD, 32);
}

/*
 * Keys are rounded up too, up to 1024 to whole blocks, and begin with a whole block: long sequences have few
 * shapes of products.
 */
kd_query_block kd_attention_block(const kd_attention *a, kd_span span, int64_t first)
{
    const int64_t n = least(span.n - first, KD_QUERY_BLOCK), padded = kd_attention_padded(span.n);
    const int64_t window = a->window > 0 ? a->window : span.n;
    const int64_t before = first + 1 > window ? first + 1 - window : 0;
    const int64_t first_key = before / KD_QUERY_BLOCK * KD_QUERY_BLOCK;
    const int64_t ahead = first - first_key;
    return (kd_query_block){
        .queries = {span.first + first, n},
        .n_rows = least(padded - first, KD_QUERY_BLOCK),
        .first_key = first_key,
        .n_keys = least(round_up(ahead + n, KD_QUERY_BLOCK, 16), padded - first_key),
        .ahead = ahead,
        .window = window,
    };
}

kd_tensor
kd_attention_keys(const kd_attention *a, void *packed, kd_dtype dtype, const kd_query_block *block)
{
    const size_t row_bytes = (size_t)a->head_dim * kd_dtype_bytes(dtype);
    return kd_tensor_2d((char *)packed + (size_t)block->first_key * row_bytes, dtype, block->n_keys,
                        a->head_dim);
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

void kd_attention_pack(const kd_attention *a,
                       void *packed,
                       kd_tensor t,
                       kd_span span,
                       int64_t n_rows,
                       int64_t h)
{
    const kd_tensor head = kd_attention_head(a, t, span, h);
    const size_t row_bytes = (size_t)a->head_dim * kd_dtype_bytes(t.dtype);
    for (int64_t i = 0; i < span.n; i++) {
        memcpy((char *)packed + (size_t)i * row_bytes, kd_row(head, i), row_bytes);
    }
    memset((char *)packed + (size_t)span.n * row_bytes, 0, (size_t)(n_rows - span.n) * row_bytes);
}

kd_tensor kd_attention_written(const kd_attention *a,
                               void *memory,
                               kd_tensor t,
                               const kd_query_block *block,
                               int64_t h)
{
    return block->n_rows == block->queries.n
               ? kd_attention_head(a, t, block->queries, h)
               : kd_tensor_2d(memory, t.dtype, block->n_rows, a->head_dim);
}

kd_tensor kd_attention_read(const kd_attention *a,
                            void *memory,
                            kd_tensor t,
                            const kd_query_block *block,
                            int64_t h)
{
    if (block->n_rows > block->queries.n) {
        kd_attention_pack(a, memory, t, block->queries, block->n_rows, h);
    }
    return kd_attention_written(a, memory, t, block, h);
}

void kd_attention_unpack(const kd_attention *a,
                         kd_tensor t,
                         const kd_query_block *block,
                         int64_t h,
                         kd_tensor written)
{
    const kd_tensor head = kd_attention_head(a, t, block->queries, h);
    for (int64_t i = 0; written.data != head.data && i < block->queries.n; i++) {
        memcpy(kd_row(head, i), kd_row(written, i), (size_t)a->head_dim * kd_dtype_bytes(t.dtype));
    }
}

void kd_attention_clear_rows(kd_tensor scores, const kd_query_block *block)
{
    for (int64_t i = block->queries.n; i < block->n_rows; i++) {
        memset(kd_row(scores, i), 0, (size_t)block->n_keys * kd_dtype_bytes(scores.dtype));
    }
}

void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product)
{
    if (*st == KD_OK) {
        *st = kd_matmul(cache, product);
    }
}
