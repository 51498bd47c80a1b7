/*
 * attention.h - what the forward and the backward pass of attention share.
 *
 * Work is cut by span (a run of rows that may see each other: a sequence, or a segment of one) and
 * key/value head, whose keys and values are packed once. So segments give the bits that the same rows
 * give as sequences of their own. Blocks of
 * query rows meet the keys up to their last row, from the first row's window on, so the scores of a
 * block are one product, and those beyond the diagonal and before the windows within it are computed
 * in vain.
 */
#ifndef KD_TENSOR_CPU_ATTENTION_H
#define KD_TENSOR_CPU_ATTENTION_H

#include "tensor/cpu/cpu.h"

/* Query rows of a block: fewer waste less beyond the diagonal, more make better products. */
#define KD_QUERY_BLOCK 64

/* Rows of scores are padded to whole vectors, so that loops over them have no remainder. */
#define KD_SCORE_PAD 16

KD_INLINE int64_t kd_score_padded(int64_t n_keys)
{
    return (n_keys + KD_SCORE_PAD - 1) / KD_SCORE_PAD * KD_SCORE_PAD;
}

/* Elements between rows of scores: one vector more, because with a power of two all rows would
 * share a few cache sets. */
KD_INLINE int64_t kd_score_stride(int64_t n_keys)
{
    return kd_score_padded(n_keys) + KD_SCORE_PAD;
}

/*
 * Rows that a span of n takes in packed memory: n rounded up to one of a few numbers, so that segments of
 * any lengths have few shapes of products. Up to 512 these are the multiples of 16, beyond it 16 to an
 * octave. What lies behind the n rows is zero.
 */
int64_t kd_attention_padded(int64_t n);

/* A (rows, n_keys) matrix of scores in scratch memory. */
kd_tensor kd_attention_scores(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys);

/* Rows of the micro-batch, within one sequence. */
typedef struct kd_span {
    int64_t first, n;
} kd_span;

/* What one block's products are of. */
typedef struct kd_query_block {
    kd_span queries;   /* rows of the micro-batch                                              */
    int64_t n_rows;    /* queries.n, or more at the end of a span: rows of zeros               */
    int64_t first_key; /* of the span's: no query of the block sees one before it            */
    int64_t n_keys;    /* from there; up to the span's padding: behind a query none counts for it */
    int64_t ahead;     /* keys from the first to before the block's own: a window's, or all     */
    int64_t window;    /* keys that a query sees at most: itself and those before it            */
} kd_query_block;

/* The block that begins with row `first` of a span. */
kd_query_block kd_attention_block(const kd_attention *a, kd_span span, int64_t first);

/* The keys that query i of a block sees: from *first_out to before *end_out, of the block's. */
KD_INLINE void
kd_attention_seen(const kd_query_block *block, int64_t i, int64_t *first_out, int64_t *end_out)
{
    const int64_t end = block->ahead + i + 1;
    *first_out = end > block->window ? end - block->window : 0;
    *end_out = end;
}

/* The block's part of a head's packed (T', D) keys, or values, or their sums. */
kd_tensor
kd_attention_keys(const kd_attention *a, void *packed, kd_dtype dtype, const kd_query_block *block);

/* Writes the spans, of which there are at most as many as rows; returns how many. */
int64_t kd_attention_spans(const kd_attention *a, kd_span *spans_out);

/* Zeroes the rows of t that are padding. */
void kd_attention_clear_padding(const kd_attention *a, kd_tensor t);

/* Those rows, columns of head h: a view. */
kd_tensor kd_attention_head(const kd_attention *a, kd_tensor t, kd_span rows, int64_t h);

/* Log-sum-exps of head h from that row on; NULL: none are kept. */
float *kd_attention_lse(const kd_attention *a, int64_t row, int64_t h);

/* Copies one head's columns of rows, zeros behind them: packed (n_rows, D). */
void kd_attention_pack(const kd_attention *a,
                       void *packed,
                       kd_tensor t,
                       kd_span span,
                       int64_t n_rows,
                       int64_t h);

/*
 * (n_rows, D) of head h for a block's products: those rows of t, or `memory`, of a whole block, where the
 * block has more. What is read comes packed; what was written there goes to t by kd_attention_unpack().
 */
kd_tensor kd_attention_read(const kd_attention *a,
                            void *memory,
                            kd_tensor t,
                            const kd_query_block *block,
                            int64_t h);
kd_tensor kd_attention_written(const kd_attention *a,
                               void *memory,
                               kd_tensor t,
                               const kd_query_block *block,
                               int64_t h);
void kd_attention_unpack(const kd_attention *a,
                         kd_tensor t,
                         const kd_query_block *block,
                         int64_t h,
                         kd_tensor written);

/* Zeroes a block's rows behind its queries. */
void kd_attention_clear_rows(kd_tensor scores, const kd_query_block *block);

/* Does nothing once *st is a fault; sets it otherwise. */
void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product);

#endif
