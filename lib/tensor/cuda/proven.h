/* proven.h - made by tests/gpu/prove, which says how; kernels.h says what it means. */
#ifndef KD_TENSOR_CUDA_PROVEN_H
#define KD_TENSOR_CUDA_PROVEN_H

/* X(NAME, capability) */
#define KD_CUDA_PROVEN_EACH(X)

#endif
