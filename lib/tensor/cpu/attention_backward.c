/*
 * attention_backward.c - the gradients of attention, from what the forward pass has kept.
 *
 * With S = scale q k^T, P = softmax(S), out = P v:
 *   dv = P^T dout,  dP = dout v^T,  dS = P (dP - delta),  delta = rowsum(dout * out),
 *   dq = scale dS k,  dk = scale dS^T q.
 * P is formed again from the saved log-sum-exp (Dao et al. 2022). dk and dv of a key/value head
 * are summed in f32 over its query heads and blocks.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/attention.h"

typedef struct backward_args {
    kd_backend *be;
    const kd_attention *a;
    const kd_span *spans;
    kd_tensor dq, dk, dv, dout;
    char *scratch; /* (parts) of lane_bytes each */
    size_t lane_bytes;
    float scale;
    bool rehearses; /* as in the forward pass */
} backward_args;

typedef struct lane_memory {
    void *k, *v;             /* (T', D) compute, T' the padded length    */
    float *dk, *dv;          /* (T', D)                                  */
    void *q, *dout, *dq;     /* (block, D) compute                       */
    float *scores, *d_probs; /* (block, T')                              */
    void *probs, *d_scores;  /* (block, T') compute, d_scores with scale */
} lane_memory;

static void layout(kd_arena *arena, const backward_args *w, lane_memory *memory_out)
{
    const kd_attention *a = w->a;
    const size_t compute_bytes = kd_dtype_bytes(w->be->compute);
    const int64_t n_padded = kd_attention_padded(a->n_tokens);
    const size_t head = (size_t)n_padded * (size_t)a->head_dim;
    const size_t block = KD_QUERY_BLOCK * (size_t)a->head_dim;
    const size_t n_scores = KD_QUERY_BLOCK * (size_t)kd_score_stride(n_padded);
    memory_out->k = kd_arena_carve(arena, head * compute_bytes);
    memory_out->v = kd_arena_carve(arena, head * compute_bytes);
    memory_out->dk = kd_arena_carve(arena, head * sizeof(float));
    memory_out->dv = kd_arena_carve(arena, head * sizeof(float));
    memory_out->q = kd_arena_carve(arena, block * compute_bytes);
    memory_out->dout = kd_arena_carve(arena, block * compute_bytes);
    memory_out->dq = kd_arena_carve(arena, block * compute_bytes);
    memory_out->scores = kd_arena_carve(arena, n_scores * sizeof(float));
    memory_out->d_probs = kd_arena_carve(arena, n_scores * sizeof(float));
    memory_out->probs = kd_arena_carve(arena, n_scores * compute_bytes);
    memory_out->d_scores = kd_arena_carve(arena, n_scores * compute_bytes);
}

KD_INLINE float dot_row(const void *x, const void *y, kd_dtype dtype, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        sum += kd_get(x, i, dtype) * kd_get(y, i, dtype);
    }
    return sum;
}

typedef struct score_block {
    const kd_query_block *block;
    kd_tensor p, ds, scores, dp; /* (n_rows, n_keys) */
    kd_tensor out, dout;         /* (n, D), queries   */
    const float *lse;            /* (n)               */
    float scale;
} score_block;

/*
 * One row: probabilities over the keys it sees and scaled gradients of the scores, zeros around them.
 * What lies before them and up to a whole vector behind is computed too, and overwritten.
 */
KD_INLINE void
score_gradient_row(const score_block *s, int64_t row, kd_dtype dtype, float lse, float delta)
{
    int64_t first, n;
    kd_attention_seen(s->block, row, &first, &n);
    void *p = kd_row(s->p, row), *ds = kd_row(s->ds, row);
    const float *scores = kd_row(s->scores, row), *dp = kd_row(s->dp, row);
    const float scale = s->scale;
    const int64_t n_keys = s->p.dims[1];
    const int64_t n_padded = kd_score_padded(n);
#pragma omp simd
    for (int64_t i = 0; i < n_padded; i++) {
        const float prob = kd_exp(scores[i] * scale - lse);
        kd_put(p, i, dtype, prob);
        kd_put(ds, i, dtype, prob * (dp[i] - delta) * scale);
    }
    for (int64_t i = 0; i < first; i++) {
        kd_put(p, i, dtype, 0.0f);
        kd_put(ds, i, dtype, 0.0f);
    }
    for (int64_t i = n; i < n_keys; i++) {
        kd_put(p, i, dtype, 0.0f);
        kd_put(ds, i, dtype, 0.0f);
    }
}

KD_INLINE void score_gradient(const score_block *s, kd_dtype dtype)
{
    const int64_t head_dim = kd_tensor_columns(s->out);
    for (int64_t row = 0; row < s->block->queries.n; row++) {
        const float delta = dot_row(kd_row(s->out, row), kd_row(s->dout, row), dtype, head_dim);
        score_gradient_row(s, row, dtype, s->lse[row], delta);
    }
}

static void score_gradient_block(const score_block *s)
{
    if (s->p.dtype == KD_BF16) {
        score_gradient(s, KD_BF16);
    } else {
        score_gradient(s, KD_F32);
    }
    kd_attention_clear_rows(s->p, s->block);
    kd_attention_clear_rows(s->ds, s->block);
}

static kd_status backward_block(const backward_args *w,
                                kd_matmul_cache *cache,
                                const lane_memory *memory,
                                const kd_query_block *block,
                                int64_t h)
{
    const kd_attention *a = w->a;
    const kd_dtype compute = w->be->compute;
    const int64_t n_rows = block->n_rows, n_keys = block->n_keys;
    const kd_tensor q = kd_attention_read(a, memory->q, a->q, block, h);
    const kd_tensor dout = kd_attention_read(a, memory->dout, w->dout, block, h);
    const kd_tensor dq = kd_attention_written(a, memory->dq, w->dq, block, h);
    const kd_tensor k = kd_attention_keys(a, memory->k, compute, block);
    const kd_tensor v = kd_attention_keys(a, memory->v, compute, block);
    const kd_tensor dk = kd_attention_keys(a, memory->dk, KD_F32, block);
    const kd_tensor dv = kd_attention_keys(a, memory->dv, KD_F32, block);
    const score_block s = {
        .block = block,
        .p = kd_attention_scores(memory->probs, compute, n_rows, n_keys),
        .ds = kd_attention_scores(memory->d_scores, compute, n_rows, n_keys),
        .scores = kd_attention_scores(memory->scores, KD_F32, n_rows, n_keys),
        .dp = kd_attention_scores(memory->d_probs, KD_F32, n_rows, n_keys),
        .out = kd_attention_head(a, a->out, block->queries, h),
        .dout = dout,
        .lse = kd_attention_lse(a, block->queries.first, h),
        .scale = w->scale,
    };
    const kd_product products[] = {
        {.c = s.scores, .a = q, .b = k, .trans_b = true},
        {.c = s.dp, .a = dout, .b = v, .trans_b = true},
        {.c = dv, .a = s.p, .b = dout, .trans_a = true, .accumulate = true},
        {.c = dk, .a = s.ds, .b = q, .trans_a = true, .accumulate = true},
        {.c = dq, .a = s.ds, .b = k}};
    kd_status st = KD_OK;
    for (int i = 0; i < 5; i++) {
        if (i == 2 && !st && !w->rehearses) {
            score_gradient_block(&s); /* from the first two, for the others */
        }
        kd_attention_product(cache, &st, &products[i]);
    }
    kd_attention_unpack(a, w->dq, block, h, dq);
    return st;
}

/* Rounds the f32 sums of a key/value head into its columns of the gradient. */
static void store_sums(kd_tensor head, const float *sums)
{
    for (int64_t row = 0; row < head.dims[0]; row++) {
        KD_KERNEL(convert_row)
        (kd_row(head, row), head.dtype, sums + row * head.dims[1], KD_F32, head.dims[1]);
    }
}

/* All query heads that read key/value head g in a span. */
static kd_status backward_group(const backward_args *w,
                                kd_matmul_cache *cache,
                                const lane_memory *memory,
                                int64_t item)
{
    const kd_attention *a = w->a;
    const int64_t g = item % a->n_kv_heads;
    const kd_span span = w->spans[item / a->n_kv_heads];
    const int64_t group = a->n_heads / a->n_kv_heads, n_padded = kd_attention_padded(span.n);
    const size_t head_bytes = (size_t)n_padded * (size_t)a->head_dim * sizeof(float);
    kd_status st = KD_OK;
    if (!w->rehearses) {
        kd_attention_pack(a, memory->k, a->k, span, n_padded, g);
        kd_attention_pack(a, memory->v, a->v, span, n_padded, g);
        memset(memory->dk, 0, head_bytes);
        memset(memory->dv, 0, head_bytes);
    }
    for (int64_t h = g * group; h < (g + 1) * group; h++) {
        for (int64_t first = 0; first < span.n && !st; first += KD_QUERY_BLOCK) {
            const kd_query_block block = kd_attention_block(a, span, first);
            st = backward_block(w, cache, memory, &block, h);
        }
    }
    if (!w->rehearses) {
        store_sums(kd_attention_head(a, w->dk, span, g), memory->dk);
        store_sums(kd_attention_head(a, w->dv, span, g), memory->dv);
    }
    return st;
}

static void backward_groups(const void *args, int lane, int64_t begin, int64_t end)
{
    const backward_args *w = args;
    kd_status st = KD_OK;
    kd_arena arena;
    lane_memory memory;
    kd_arena_init(&arena, w->scratch + (size_t)lane * w->lane_bytes, w->lane_bytes);
    layout(&arena, w, &memory);
    for (int64_t item = begin; item < end && !st; item++) {
        st = backward_group(w, ((kd_cpu *)w->be)->lane[lane], &memory, item);
    }
    kd_backend_keep_fault(w->be, st);
}

void KD_KERNEL(attention_backward)(kd_backend *be,
                                   const kd_attention *a,
                                   kd_tensor dq,
                                   kd_tensor dk,
                                   kd_tensor dv,
                                   kd_tensor dout)
{
    kd_check_attention_backward(be, a, dq, dk, dv, dout);
    if (be->fault) {
        return;
    }
    backward_args w = {.be = be,
                       .a = a,
                       .dq = dq,
                       .dk = dk,
                       .dv = dv,
                       .dout = dout,
                       .scale = 1.0f / sqrtf((float)a->head_dim),
                       .rehearses = ((const kd_cpu *)be)->rehearses};
    kd_arena counted = {0};
    lane_memory unused;
    layout(&counted, &w, &unused);
    w.lane_bytes = counted.used;
    const size_t mark = kd_cpu_scratch_mark(be);
    kd_span *spans = kd_cpu_scratch(be, (size_t)kd_tensor_rows(a->q) * sizeof *spans);
    w.spans = spans;
    w.scratch = kd_cpu_scratch(be, (size_t)be->n_threads * w.lane_bytes);
    if (!be->fault) {
        const int64_t n_spans = kd_attention_spans(a, spans);
        kd_attention_clear_padding(a, dq);
        kd_attention_clear_padding(a, dk);
        kd_attention_clear_padding(a, dv);
        (void)kd_prepare_items(be, n_spans * a->n_kv_heads, backward_groups, &w);
    }
    kd_cpu_scratch_rewind(be, mark);
}
