/*
 * columns.h - sums over the rows of a matrix, as gradients of what every row shares.
 *
 * The tree is fixed by the number of rows: its nodes have up to 128 of them, and so have those of the nodes'
 * sums, until one is left.
 */
#ifndef KD_TENSOR_CUDA_COLUMNS_H
#define KD_TENSOR_CUDA_COLUMNS_H

#include "tensor/tensor.h"

struct kd_backend;

/* sum (n) f32 = the column sums of x (rows, n) f32 or bf16; added to what is there if asked. No rows: 0. */
void kd_cuda_sum_columns(kd_backend *be, kd_tensor sum, kd_tensor x, bool accumulate);

#endif
