/*
 * matmul.h - matrix products of one thread by oneDNN, with a primitive kept for each shape.
 *
 * Making a primitive costs a thousand times what starting one does, so each combination of shape,
 * strides, dtypes and flags is made once and kept: the KD_PRODUCTS_MAX that were used last. All
 * primitives of a cache share one scratchpad, as large as the largest asks for.
 *
 * Threads: a cache is used by one thread at a time, and its products run on that thread.
 */
#ifndef KD_TENSOR_CPU_MATMUL_H
#define KD_TENSOR_CPU_MATMUL_H

#include "tensor/product.h"

typedef struct kd_matmul_cache kd_matmul_cache;

/* Casts or copies n elements. */
typedef void
kd_convert_fn(void *dst, kd_dtype dst_dtype, const void *src, kd_dtype src_dtype, int64_t n);

/* convert is what widens operands where the processor multiplies f32 only. */
KD_MUST_USE kd_status kd_matmul_cache_create(kd_convert_fn *convert, kd_matmul_cache **cache_out);
void kd_matmul_cache_destroy(kd_matmul_cache *cache);

/* From now on kd_matmul() is kd_matmul_prepare(). */
void kd_matmul_cache_rehearse(kd_matmul_cache *cache);

/* KD_ERR_NOMEM, or KD_ERR_IO if oneDNN refuses. */
KD_MUST_USE kd_status kd_matmul(kd_matmul_cache *cache, const kd_product *product);

/* Makes what kd_matmul() needs for that product, and reads and writes no element. */
KD_MUST_USE kd_status kd_matmul_prepare(kd_matmul_cache *cache, const kd_product *product);

/* Its table, panels and scratchpad, as far as products have asked for them; oneDNN's code is not known. */
size_t kd_matmul_cache_bytes(const kd_matmul_cache *cache);

/* Primitives made so far. */
int64_t kd_matmul_made(const kd_matmul_cache *cache);

#endif
