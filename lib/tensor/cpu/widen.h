/*
 * widen.h - products of bf16 operands on a processor that multiplies f32 only.
 *
 * The operands are converted in panels that stay in the processor's caches, multiplied in f32 with
 * f32 sums, and a bf16 result is rounded once, from the finished sum.
 *
 * Threads: as matmul.h says of the cache that owns it.
 */
#ifndef KD_TENSOR_CPU_WIDEN_H
#define KD_TENSOR_CPU_WIDEN_H

#include "tensor/cpu/matmul.h"

/* Rows and columns of a panel at most; the three panels together are 3 MiB. */
#define KD_PANEL_SIDE 512

/* Of one cache of products. */
typedef struct kd_panels {
    kd_convert_fn *convert;
    int n_threads; /* the cache's */
    float *memory; /* (3, KD_PANEL_SIDE, KD_PANEL_SIDE), taken at the first product */
} kd_panels;

void kd_panels_release(kd_panels *panels);

/* The product, with both operands bf16, by products of f32 in the cache. KD_ERR_NOMEM, or what a product of f32 answers. */
KD_MUST_USE kd_status kd_matmul_widened(kd_panels *panels,
                                        kd_matmul_cache *cache,
                                        const kd_product *product);

#endif
