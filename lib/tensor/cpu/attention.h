/*
 * attention.h - what the forward and the backward pass of attention share.
 *
 * Work is cut by sequence and key/value head. Within one, blocks of query rows meet all the keys
 * up to their last row, so the scores of a block are one product, and those in the future of the
 * diagonal are the only ones computed in vain.
 */
#ifndef KD_TENSOR_CPU_ATTENTION_H
#define KD_TENSOR_CPU_ATTENTION_H

#include "tensor/cpu/cpu.h"

/* Query rows of a block: fewer waste less above the diagonal, more make better products. */
#define KD_QUERY_BLOCK 64

/* Rows [first, first + n) of sequence b, columns of head h: a view into the fused matrix. */
kd_tensor kd_attention_head(const kd_attention *a,
                            kd_tensor t,
                            int64_t b,
                            int64_t h,
                            int64_t first,
                            int64_t n);

/* Distance of rows in a block of scores over n keys. */
int64_t kd_attention_stride(int64_t n_keys);

/* A (rows, n_keys) block of scratch. */
kd_tensor kd_attention_block(void *data, kd_dtype dtype, int64_t rows, int64_t n_keys);

void kd_attention_check(const kd_attention *a, kd_dtype compute);

/* KD_OK, or the fault of the first product that failed; products after it do nothing. */
void kd_attention_product(kd_matmul_cache *cache, kd_status *st, const kd_product *product);

#endif
