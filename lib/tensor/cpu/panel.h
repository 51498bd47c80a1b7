/*
 * panel.h - products whose operands are copied into panels first.
 *
 * Two reasons. A processor that multiplies f32 only gets operands of bf16 converted; sums are f32, and
 * a result in bf16 is rounded once, from the finished sum. And below AVX-512 oneDNN reads operands of
 * middle size where they lie: rows at a power of two share cache sets, which costs up to half the rate.
 *
 * Threads: as matmul.h says of the cache that owns it.
 */
#ifndef KD_TENSOR_CPU_PANEL_H
#define KD_TENSOR_CPU_PANEL_H

#include "tensor/cpu/matmul.h"

/* Rows and columns of a panel at most; the three panels together are 3 MiB. */
#define KD_PANEL_SIDE 512

/* Elements between rows of a panel at most. */
#define KD_PANEL_STRIDE (KD_PANEL_SIDE + 16)

/* Of one cache of products. */
typedef struct kd_panels {
    kd_convert_fn *convert;
    bool prepares; /* products are made, not run: nothing is converted */
    float *memory; /* (3, KD_PANEL_SIDE, KD_PANEL_SIDE), taken at the first product */
} kd_panels;

/* Rows this many elements of f32 apart share sets of the caches. */
static inline bool kd_stride_is_bad(int64_t stride)
{
    return stride % 256 == 0;
}

void kd_panels_release(kd_panels *panels);
size_t kd_panels_bytes(const kd_panels *panels);

/*
 * The product, by products of f32 in the cache, from panels of a and of b where copy_a and copy_b say
 * so; operands of bf16 are always copied. KD_ERR_NOMEM, or what a product of f32 answers.
 */
KD_MUST_USE kd_status kd_matmul_by_panels(kd_panels *panels,
                                          kd_matmul_cache *cache,
                                          const kd_product *product,
                                          bool copy_a,
                                          bool copy_b);

#endif
