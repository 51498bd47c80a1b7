/*
 * attention.h - what the forward and the backward pass of attention share.
 *
 * Work is cut by span (a run of rows that may see each other: a sequence, or a segment of one) and
 * key/value head, whose keys and values are packed once. So segments give the bits that the same rows
 * give as sequences of their own. Blocks of
 * query rows meet all the keys up to their last row, so the scores of a block are one product, and
 * those beyond the diagonal within the block are the only ones computed in vain.
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
 * Keys that a block's products read of those of its span, when its queries see n: n rounded up to one
 * of a few numbers, so that long sequences have few shapes of products. Up to 1024 these are the
 * multiples of a block, beyond it 8 to an octave. What is read in vain has no probability.
 */
int64_t kd_attention_keys(int64_t n, int64_t n_span);

/* A (rows, n_keys) matrix of scores in scratch memory. */
kd_tensor kd_attention_scores(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys);

/* Rows of the micro-batch, within one sequence. */
typedef struct kd_span {
    int64_t first, n;
} kd_span;

/* Writes the spans, of which there are at most as many as rows; returns how many. */
int64_t kd_attention_spans(const kd_attention *a, kd_span *spans_out);

/* Zeroes the rows of t that are padding. */
void kd_attention_clear_padding(const kd_attention *a, kd_tensor t);

/* Those rows, columns of head h: a view. */
kd_tensor kd_attention_head(const kd_attention *a, kd_tensor t, kd_span rows, int64_t h);

/* Log-sum-exps of head h from that row on; NULL: none are kept. */
float *kd_attention_lse(const kd_attention *a, int64_t row, int64_t h);

/* Copies one head's columns of a span: packed (n, D). */
void kd_attention_pack(const kd_attention *a, void *packed, kd_tensor t, kd_span span, int64_t h);

void kd_attention_check(const kd_attention *a, kd_dtype compute);

/* Does nothing once *st is a fault; sets it otherwise. */
void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product);

#endif
