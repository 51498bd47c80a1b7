/*
 * experts.h - the fast grouped products, for the operations of experts.cu.
 */
#ifndef KD_TENSOR_CUDA_EXPERTS_H
#define KD_TENSOR_CUDA_EXPERTS_H

#include "tensor/cuda/cuda.h"

/* For the rows r of expert e; w and dw (E, O, K), rows of x as K, of y as O. */
typedef enum kd_cuda_grouped {
    KD_CUDA_GROUPED_Y,  /* y[r] = x[r] w[e]^T                  */
    KD_CUDA_GROUPED_DX, /* dx[r] = dy[r] w[e]                  */
    KD_CUDA_GROUPED_DW, /* dw[e] = or += sum of dy[r]^T x[r]   */
} kd_cuda_grouped;

/*
 * c = the product of a and b, named in the formulas from left to right: (y, x, w), (dx, dy, w) or (dw, dy, x),
 * whose shapes and types the caller has checked, and that accumulates only into dw. `what` names it in a
 * fault. False: this device or these operands are not for it, and nothing is queued. Operands are bf16 whose
 * rows all begin at multiples of 16 bytes; c is f32 or bf16, and lies as it will.
 */
bool kd_cuda_grouped_product(kd_backend *be,
                             const char *what,
                             kd_cuda_grouped kind,
                             kd_tensor c,
                             kd_tensor a,
                             kd_tensor b,
                             const kd_route *route,
                             bool accumulate);

#endif
