/*
 * vocab_rows.h - the losses over the vocabulary and their gradient, row by row over one chunk of
 * logits: what vocab_loss does between its products.
 */
#ifndef KD_TENSOR_CPU_VOCAB_ROWS_H
#define KD_TENSOR_CPU_VOCAB_ROWS_H

#include "tensor/cpu/cpu.h"

typedef struct kd_vocab_rows {
    kd_tensor student;         /* (R, V) f32 logits                                  */
    kd_tensor slopes;          /* (R, V) f32 or bf16, the gradient; or none; may be `student` */
    const kd_tensor *teachers; /* [n_teachers] (R, V') f32 logits                    */
    const double *shares;      /* [n_teachers] of p_T, summing to 1; or all 0: no kd */
    int n_teachers;
    const int32_t *labels; /* [R], or NULL */
    int64_t n_vocab;
    Kd__SoftTarget__Divergence divergence;
    float temperature, kd_scale, hard_scale; /* as in kd_vocab_loss */
    double *row_sums;                        /* (R, KD_VOCAB_SUMS), written */
} kd_vocab_rows;

/* Takes scratch memory: see kd_cpu_scratch(). */
void KD_KERNEL(vocab_rows)(kd_backend *be, const kd_vocab_rows *rows);

#endif
