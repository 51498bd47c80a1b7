/*
 * cpu.h - what the files of the CPU back end share.
 *
 * An operation checks its shapes, returns at once if the back end has a fault, asks for scratch
 * memory if it needs some, and hands a row function to kd_parallel_rows(). Work is cut in fixed
 * parts by the number of threads, and partial sums are added in the order of the parts: with
 * the same number of threads results are the same bits.
 */
#ifndef KD_TENSOR_CPU_CPU_H
#define KD_TENSOR_CPU_CPU_H

#include "tensor/checks.h"
#include "tensor/cpu/matmul.h"
#include "tensor/cpu/vec_math.h"
#include "tensor/ops.h"
#include "tensor/scratch.h"

/* Shapes of expert matrices that are told apart: three products of a few matrices, of two models. */
#define KD_EXPERT_SHAPES_MAX 32

/* Which product of what; all zero: none. */
typedef struct kd_expert_shape {
    int64_t words[10];
} kd_expert_shape;

typedef struct kd_cpu {
    kd_backend base;         /* first: a kd_backend * is a kd_cpu *                    */
    kd_matmul_cache **lane;  /* (n_threads) products, of one thread each               */
    kd_scratch scratch;      /* of the operations that run                             */
    uint64_t n_events;       /* recorded                                               */
    bool prepares;           /* products are made ready, not run                       */
    bool rehearses;          /* no element of a tensor is read or written              */
    size_t held_bytes;       /* of tensors                                             */
    int64_t n_expert_shapes; /* whose products were made ready; the oldest gives way   */
    kd_expert_shape expert_shapes[KD_EXPERT_SHAPES_MAX];
} kd_cpu;

/* What kd_ops.alloc and free are; the back end's own memory comes from here too. For a rehearsal it is
 * not reserved: most of it is never touched. */
void *kd_cpu_pages(size_t size_bytes, bool reserves);
void *kd_cpu_pages_tried(size_t size_bytes, bool reserves); /* where NULL is no fault */
void kd_cpu_pages_free(void *memory);
size_t kd_cpu_pages_bytes(const void *memory); /* as asked for; 0 of NULL */

/* As scratch.h says; NULL if the back end now has a fault. Who takes some rewinds to the mark of
 * before. */
void *kd_cpu_scratch(kd_backend *be, size_t size_bytes);
size_t kd_cpu_scratch_mark(const kd_backend *be);
void kd_cpu_scratch_rewind(kd_backend *be, size_t mark);

/* Whether an operation has nothing to compute: after a fault, and in a rehearsal. */
static inline bool kd_cpu_is_idle(const kd_backend *be)
{
    return be->fault != KD_OK || ((const kd_cpu *)be)->rehearses;
}

kd_memory_usage kd_cpu_memory_usage(const kd_cpu *cpu);

/* A product on all threads: one part for each. Where the back end `prepares`, it is made ready only,
 * and no element is read or written. */
void kd_cpu_product(kd_backend *be, const kd_product *product);

/* Handles rows [begin, end) as part number `lane` of at most n_threads. */
typedef void kd_rows_fn(const void *args, int lane, int64_t begin, int64_t end);

/*
 * Cuts n rows into equal parts of at least `grain` rows, one for each thread; returns how many. In a
 * rehearsal it only counts them. Those who prepare products have two others, which call fn there too, one part
 * after the other: kd_prepare_rows() for all rows, kd_prepare_items() for one item a part, where all items
 * are alike and worth a part.
 */
int kd_prepare_rows(kd_backend *be, int64_t n, int64_t grain, kd_rows_fn *fn, const void *args);
int kd_prepare_items(kd_backend *be, int64_t n, kd_rows_fn *fn, const void *args);
int kd_parallel_rows(kd_backend *be, int64_t n, int64_t grain, kd_rows_fn *fn, const void *args);

/* Rows of that many columns that are worth a thread. */
int64_t kd_grain(int64_t columns);

/* sum[i] = the sum over parts of partial[part * n + i], in order; added to what is there if asked. */
void kd_sum_partials(float *sum, const float *partial, int n_parts, int64_t n, bool accumulate);

/* Products that were prepared since the back end was made: after the first step hardly any. */
int64_t kd_cpu_products_made(const kd_backend *be);

/* Frees what kd_backend_create_cpu() took; also where it stopped half way. */
void kd_cpu_destroy(kd_backend *be);

#ifdef KD_LEVEL
/*
 * Files that define operations or run loops over elements are compiled once per instruction level
 * (level.h), with KD_LEVEL as its name: KD_KERNEL(norm) is kd_ops.norm of that level. What such files
 * share is named so too, and files that are compiled once cannot call it.
 */
#define KD_KERNEL_OF(op, level)   kd_cpu_##op##_##level
#define KD_KERNEL_NAME(op, level) KD_KERNEL_OF(op, level)
#define KD_KERNEL(op)             KD_KERNEL_NAME(op, KD_LEVEL)
#define KD_KERNEL_DECLARE(op)     __typeof__(*((const kd_ops *)0)->op) KD_KERNEL(op);
KD_OPS_EACH(KD_KERNEL_DECLARE)

/* Element casts and copies of a row. */
kd_convert_fn KD_KERNEL(convert_row);

/* Backward of y += weight * x over a row: dx = weight * dy; returns dy . x, the weight's gradient. */
KD_INLINE float
kd_scale_row(void *dx, const float *dy, const void *x, kd_dtype dtype, float weight, int64_t n)
{
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) {
        dot += dy[i] * kd_get(x, i, dtype);
        kd_put(dx, i, dtype, weight * dy[i]);
    }
    return dot;
}

#endif /* KD_LEVEL */

#endif
