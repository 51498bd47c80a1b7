/*
 * attention.c - forward, by blocks of queries: scores of a block against all keys that it sees are one
 * product, their softmax is in the cache, and a second product sums the values. A head's keys and values
 * are copied together first, since in their rows they lie a model's width apart.
 */
#include "tensor/cpu/attention.h"

#include <math.h>

typedef struct forward_args {
    kd_backend *be;
    const kd_attention *a;
    const kd_span *spans;
    char *scratch; /* (parts) of lane_bytes each */
    size_t lane_bytes;
    float scale;    /* 1 / sqrt(D)                                     */
    bool rehearses; /* products are prepared, and no element is looked at */
} forward_args;

typedef struct lane_memory {
    void *k, *v;   /* (T', D) compute, T' the padded length */
    void *q, *out; /* (block, D) compute                    */
    float *scores; /* (block, T')                           */
    void *probs;   /* (block, T') compute                   */
} lane_memory;

static void layout(kd_arena *arena, const forward_args *f, lane_memory *memory_out)
{
    const kd_attention *a = f->a;
    const size_t compute_bytes = kd_dtype_bytes(f->be->compute);
    const int64_t n_padded = kd_attention_padded(a->n_tokens);
    const size_t head = (size_t)n_padded * (size_t)a->head_dim;
    const size_t block = KD_QUERY_BLOCK * (size_t)a->head_dim;
    const size_t n_scores = KD_QUERY_BLOCK * (size_t)kd_score_stride(n_padded);
    memory_out->k = kd_arena_carve(arena, head * compute_bytes);
    memory_out->v = kd_arena_carve(arena, head * compute_bytes);
    memory_out->q = kd_arena_carve(arena, block * compute_bytes);
    memory_out->out = kd_arena_carve(arena, block * compute_bytes);
    memory_out->scores = kd_arena_carve(arena, n_scores * sizeof(float));
    memory_out->probs = kd_arena_carve(arena, n_scores * compute_bytes);
}

/*
 * Softmax of one row of scores over its keys from `first` to before n, zeros around them up to n_keys; returns
 * the log-sum-exp of the scaled scores. The row is padded with scores that count for nothing, and the
 * exponentials replace the scores on the way.
 */
KD_INLINE float softmax_row(void *p,
                            kd_dtype dtype,
                            float *scores,
                            int64_t first,
                            int64_t n,
                            int64_t n_keys,
                            float scale)
{
    const int64_t n_padded = kd_score_padded(n);
    for (int64_t i = 0; i < first; i++) {
        scores[i] = -1e30f;
    }
    for (int64_t i = n; i < n_padded; i++) {
        scores[i] = -1e30f;
    }
    float max = scores[0], sum = 0.0f;
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n_padded; i++) {
        max = scores[i] > max ? scores[i] : max;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n_padded; i++) {
        const float e = kd_exp((scores[i] - max) * scale);
        scores[i] = e;
        sum += e;
    }
    const float inv_sum = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < n_padded; i++) {
        kd_put(p, i, dtype, scores[i] * inv_sum);
    }
    for (int64_t i = n; i < n_keys; i++) {
        kd_put(p, i, dtype, 0.0f);
    }
    return max * scale + logf(sum);
}

static void
softmax_block(kd_tensor p, kd_tensor scores, const kd_query_block *block, float *lse, float scale)
{
    for (int64_t i = 0; i < block->queries.n; i++) {
        const int64_t n_keys = block->n_keys;
        int64_t first, n;
        kd_attention_seen(block, i, &first, &n);
        void *row = kd_row(p, i);
        float *of_row = kd_row(scores, i);
        const float row_lse = p.dtype == KD_BF16
                                  ? softmax_row(row, KD_BF16, of_row, first, n, n_keys, scale)
                                  : softmax_row(row, KD_F32, of_row, first, n, n_keys, scale);
        if (lse != NULL) {
            lse[i] = row_lse;
        }
    }
    kd_attention_clear_rows(p, block);
}

static kd_status forward_block(const forward_args *f,
                               kd_matmul_cache *cache,
                               const lane_memory *memory,
                               const kd_query_block *block,
                               int64_t h)
{
    const kd_attention *a = f->a;
    const kd_dtype compute = f->be->compute;
    const int64_t n_rows = block->n_rows, n_keys = block->n_keys;
    const kd_tensor q = kd_attention_read(a, memory->q, a->q, block, h);
    const kd_tensor out = kd_attention_written(a, memory->out, a->out, block, h);
    const kd_tensor k = kd_attention_keys(a, memory->k, compute, block);
    const kd_tensor v = kd_attention_keys(a, memory->v, compute, block);
    const kd_tensor scores = kd_attention_scores(memory->scores, KD_F32, n_rows, n_keys);
    const kd_tensor probs = kd_attention_scores(memory->probs, compute, n_rows, n_keys);
    kd_status st = KD_OK;
    kd_attention_product(cache, &st, &(kd_product){.c = scores, .a = q, .b = k, .trans_b = true});
    if (st) {
        return st;
    }
    if (!f->rehearses) {
        softmax_block(probs, scores, block, kd_attention_lse(a, block->queries.first, h), f->scale);
    }
    kd_attention_product(cache, &st, &(kd_product){.c = out, .a = probs, .b = v});
    kd_attention_unpack(a, a->out, block, h, out);
    return st;
}

/* All query heads that read key/value head g in a span. */
static kd_status forward_group(const forward_args *f,
                               kd_matmul_cache *cache,
                               const lane_memory *memory,
                               int64_t item)
{
    const kd_attention *a = f->a;
    const int64_t g = item % a->n_kv_heads;
    const kd_span span = f->spans[item / a->n_kv_heads];
    const int64_t group = a->n_heads / a->n_kv_heads, n_padded = kd_attention_padded(span.n);
    kd_status st = KD_OK;
    if (!f->rehearses) {
        kd_attention_pack(a, memory->k, a->k, span, n_padded, g);
        kd_attention_pack(a, memory->v, a->v, span, n_padded, g);
    }
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        for (int64_t first = 0; first < span.n && !st; first += KD_QUERY_BLOCK) {
            const kd_query_block block = kd_attention_block(a, span, first);
            st = forward_block(f, cache, memory, &block, h);
        }
    }
    return st;
}

static void forward_groups(const void *args, int lane, int64_t begin, int64_t end)
{
    const forward_args *f = args;
    kd_status st = KD_OK;
    kd_arena arena;
    lane_memory memory;
    kd_arena_init(&arena, f->scratch + (size_t)lane * f->lane_bytes, f->lane_bytes);
    layout(&arena, f, &memory);
    for (int64_t item = begin; item < end && !st; item++) {
        st = forward_group(f, ((kd_cpu *)f->be)->lane[lane], &memory, item);
    }
    kd_backend_keep_fault(f->be, st);
}

void KD_KERNEL(attention)(kd_backend *be, const kd_attention *a)
{
    kd_check_attention(be, a);
    if (be->fault) {
        return;
    }
    forward_args f = {.be = be,
                      .a = a,
                      .scale = 1.0f / sqrtf((float)a->head_dim),
                      .rehearses = ((const kd_cpu *)be)->rehearses};
    kd_arena counted = {0};
    lane_memory unused;
    layout(&counted, &f, &unused);
    f.lane_bytes = counted.used;
    const size_t mark = kd_cpu_scratch_mark(be);
    kd_span *spans = kd_cpu_scratch(be, (size_t)kd_tensor_rows(a->q) * sizeof *spans);
    f.spans = spans;
    f.scratch = kd_cpu_scratch(be, (size_t)be->n_threads * f.lane_bytes);
    if (!be->fault) {
        const int64_t n_spans = kd_attention_spans(a, spans);
        kd_attention_clear_padding(a, a->out);
        (void)kd_prepare_items(be, n_spans * a->n_kv_heads, forward_groups, &f);
    }
    kd_cpu_scratch_rewind(be, mark);
}
