/*
 * tensor.h - a view of numbers in a back end's memory.
 *
 * Row major, slowest dimension first. Rows (the last dimension) are contiguous; the
 * distance between two of them is row_stride, so a view can be some columns of a wider
 * matrix. All other dimensions are packed. A view owns nothing and is passed by value.
 *
 * Shape letters of this project: B batch (sequences), T tokens of a sequence, N = B * T rows,
 * C width of the residual stream, H heads, G key/value heads, D head width, E experts,
 * K experts per token, F width of an MLP, V vocabulary.
 *
 * A view owns nothing: who owns the memory says which thread may touch it.
 */
#ifndef KD_TENSOR_TENSOR_H
#define KD_TENSOR_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KD_TENSOR_DIMS_MAX 3

typedef enum kd_dtype {
    KD_F32,
    KD_BF16,
    KD_F64, /* sums of losses and norms only */
    KD_I32, /* token ids, expert ids, row numbers */
    KD_DTYPE_COUNT,
} kd_dtype;

typedef struct kd_tensor {
    void *data; /* NULL: no tensor, where an operation says "or none" */
    kd_dtype dtype;
    int n_dims;                       /* 1..KD_TENSOR_DIMS_MAX                   */
    int64_t dims[KD_TENSOR_DIMS_MAX]; /* unused ones are 1, at the end           */
    int64_t row_stride;               /* elements between rows, >= the last dim  */
} kd_tensor;

size_t kd_dtype_bytes(kd_dtype dtype);
const char *kd_dtype_name(kd_dtype dtype);

/* What `auto` means for a role of which n_multiply of n_ranks ranks have a device that multiplies bf16:
 * bf16 if all have. */
kd_dtype kd_dtype_auto(int64_t n_ranks, int64_t n_multiply);

kd_tensor kd_tensor_1d(void *data, kd_dtype dtype, int64_t n);
kd_tensor kd_tensor_2d(void *data, kd_dtype dtype, int64_t rows, int64_t columns);
kd_tensor kd_tensor_3d(void *data, kd_dtype dtype, int64_t n, int64_t rows, int64_t columns);
kd_tensor kd_tensor_none(void);

/* Carves a packed (rows, columns) tensor, or (n) with columns 1 as one dimension. */
kd_tensor kd_tensor_carve_1d(kd_arena *arena, kd_dtype dtype, int64_t n);
kd_tensor kd_tensor_carve_2d(kd_arena *arena, kd_dtype dtype, int64_t rows, int64_t columns);

int64_t kd_tensor_elements(kd_tensor t); /* product of dims                     */
size_t kd_tensor_bytes(kd_tensor t);     /* of its elements                      */
int64_t kd_tensor_rows(kd_tensor t);     /* product of all dims but the last     */
int64_t kd_tensor_columns(kd_tensor t);  /* the last dim                         */

/* Rows [first, first + n) and columns [first, first + n) of a 2-d tensor, as views. */
kd_tensor kd_tensor_slice_rows(kd_tensor t, int64_t first, int64_t n);
kd_tensor kd_tensor_slice_columns(kd_tensor t, int64_t first, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
