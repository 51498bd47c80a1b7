/*
 * vocab_rows.h - what vocab_loss does between its products: the losses of the rows of one chunk of
 * logits and their gradient, the mixture of several teachers, and the sums over all rows.
 *
 * A row that takes no part is a row of the chunk all the same, since only the device knows which
 * these are: its gradient is 0 and it adds nothing.
 *
 * Threads: that of the back end, whose queue all of it runs on.
 */
#ifndef KD_TENSOR_CUDA_VOCAB_ROWS_H
#define KD_TENSOR_CUDA_VOCAB_ROWS_H

#include "tensor/cuda/cuda.h"

struct kd_vocab_rows {
    kd_tensor student; /* (R, V) f32 logits                                           */
    kd_tensor slopes;  /* (R, V) f32 or bf16, the gradient; or none; may be `student` */
    kd_tensor teacher; /* (R, V') f32: its softmax at teacher_temperature is p_T; or none: no kd */
    float teacher_temperature;
    const int32_t *rows;   /* [R] -1: takes no part                            */
    const int32_t *labels; /* [R], read where the row takes part; or NULL      */
    const int32_t *empty;  /* [R] of kd_cuda_vocab_mix(), or NULL: none is     */
    int64_t n_vocab;
    Kd__SoftTarget__Divergence divergence;
    float temperature, kd_scale, hard_scale; /* as in kd_vocab_loss             */
    double *row_sums; /* (KD_VOCAB_SUMS, sums_stride): [R] of each are written */
    int64_t sums_stride;
};

void kd_cuda_vocab_rows(kd_backend *be, const kd_vocab_rows *rows);

/* One teacher's part of p_T = sum of share * softmax(z / T), which is kept as its logarithm. */
struct kd_vocab_mix {
    kd_tensor mixture;   /* (R, n_vocab) f32, log p_T so far                            */
    kd_tensor teacher;   /* (R, V') f32 logits z                                        */
    const int32_t *rows; /* [R] -1: not touched                                         */
    int32_t *empty;      /* [R] becomes 1 where this or an earlier teacher has no column left */
    float temperature;
    double share; /* > 0                                                           */
    bool first;   /* mixture and empty are written, not added to                   */
};

void kd_cuda_vocab_mix(kd_backend *be, const kd_vocab_mix *mix);

/* sums (KD_VOCAB_SUMS) += row_sums (KD_VOCAB_SUMS, n), in a tree that depends on n alone. */
void kd_cuda_vocab_sums(kd_backend *be, kd_tensor sums, const double *row_sums, int64_t n);

#endif
