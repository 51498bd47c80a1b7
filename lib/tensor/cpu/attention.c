#include "tensor/cpu/attention.h"

#include <math.h>

#include "tensor/cpu/kernels.h"

typedef struct forward_args {
    kd_backend *be;
    const kd_attention *a;
    char *scratch; /* (parts) of lane_bytes each */
    size_t lane_bytes;
    float scale; /* 1 / sqrt(D) */
} forward_args;

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

int64_t kd_attention_stride(int64_t n_keys)
{
    return (n_keys + 15) / 16 * 16 + 16; /* no power of two: rows would share cache sets */
}

kd_tensor kd_attention_block(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys)
{
    kd_tensor block = kd_tensor_2d(data, dtype, rows, n_keys);
    block.row_stride = kd_attention_stride(n_keys);
    return block;
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

/*
 * Softmax of one row of scores over its first n keys, zeros behind them up to n_keys; returns the
 * log-sum-exp of the scaled scores. The exponentials replace the scores on the way.
 */
KD_INLINE float
softmax_row(void *p, kd_dtype dtype, float *scores, int64_t n, int64_t n_keys, float scale)
{
    float max = scores[0], sum = 0.0f;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++) {
        max = scores[i] > max ? scores[i] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const float e = kd_exp((scores[i] - max) * scale);
        scores[i] = e;
        sum += e;
    }
    const float inv_sum = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        kd_put(p, i, dtype, scores[i] * inv_sum);
    }
    for (int64_t i = n; i < n_keys; i++) {
        kd_put(p, i, dtype, 0.0f);
    }
    return max * scale + logf(sum);
}

/* Row i of the block is query first + i, which sees the keys up to itself. */
KD_SIMD static void
softmax_block(kd_tensor p, kd_tensor scores, float *lse, int64_t first, float scale)
{
    for (int64_t i = 0; i < scores.dims[0]; i++) {
        const int64_t n = first + i + 1, n_keys = scores.dims[1];
        void *row = kd_row(p, i);
        const float row_lse = p.dtype == KD_BF16
                                  ? softmax_row(row, KD_BF16, kd_row(scores, i), n, n_keys, scale)
                                  : softmax_row(row, KD_F32, kd_row(scores, i), n, n_keys, scale);
        if (lse != NULL) {
            lse[i] = row_lse;
        }
    }
}

static size_t scores_bytes(const kd_attention *a)
{
    return KD_QUERY_BLOCK * (size_t)kd_attention_stride(a->n_tokens) * sizeof(float);
}

static kd_status forward_block(const forward_args *f, int lane, int64_t b, int64_t h, int64_t first)
{
    const kd_attention *a = f->a;
    kd_matmul_cache *cache = ((kd_cpu *)f->be)->lane[lane];
    const int64_t left = a->n_tokens - first;
    const int64_t rows = left < KD_QUERY_BLOCK ? left : KD_QUERY_BLOCK, n_keys = first + rows;
    const int64_t g = h / (a->n_heads / a->n_kv_heads);
    char *scratch = f->scratch + (size_t)lane * f->lane_bytes;
    const kd_tensor scores = kd_attention_block(scratch, KD_F32, rows, n_keys);
    const kd_tensor p = kd_attention_block(scratch + scores_bytes(a), f->be->compute, rows, n_keys);
    float *lse = a->lse.data;
    kd_status st = KD_OK;

    kd_attention_product(cache, &st,
                         &(kd_product){.c = scores,
                                       .a = kd_attention_head(a, a->q, b, h, first, rows),
                                       .b = kd_attention_head(a, a->k, b, g, 0, n_keys),
                                       .trans_b = true});
    if (st) {
        return st;
    }
    softmax_block(p, scores, lse == NULL ? NULL : lse + (b * a->n_heads + h) * a->n_tokens + first,
                  first, f->scale);
    kd_attention_product(cache, &st,
                         &(kd_product){.c = kd_attention_head(a, a->out, b, h, first, rows),
                                       .a = p,
                                       .b = kd_attention_head(a, a->v, b, g, 0, n_keys)});
    return st;
}

static void forward_heads(const void *args, int lane, int64_t begin, int64_t end)
{
    const forward_args *f = args;
    kd_status st = KD_OK;
    for (int64_t item = begin; item < end; item++) {
        const int64_t b = item / f->a->n_heads, h = item % f->a->n_heads;
        for (int64_t first = 0; first < f->a->n_tokens && !st; first += KD_QUERY_BLOCK) {
            st = forward_block(f, lane, b, h, first);
        }
    }
    kd_cpu_keep_fault(f->be, st);
}

void kd_cpu_attention(kd_backend *be, const kd_attention *a)
{
    kd_attention_check(a, be->compute);
    if (be->fault) {
        return;
    }
    forward_args f = {.be = be,
                      .a = a,
                      .lane_bytes = 2 * scores_bytes(a),
                      .scale = 1.0f / sqrtf((float)a->head_dim)};
    f.scratch = kd_cpu_scratch(be, (size_t)be->n_threads * f.lane_bytes);
    if (f.scratch != NULL) {
        (void)kd_parallel_rows(be, a->n_batch * a->n_heads, 1, forward_heads, &f);
    }
}
