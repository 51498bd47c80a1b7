/*
 * dtype.h - what a job's words for a dtype (`training.dtype`, `teachers[i].dtype`) come to: the one that
 * auto means, and the tensors' name of it.
 *
 * Pure.
 */
#ifndef KD_TRAIN_DTYPE_H
#define KD_TRAIN_DTYPE_H

#include "proto/job.pb-c.h"
#include "tensor/tensor.h"

/* The wish, unless it is auto: then what kd_dtype_auto() says of n_ranks, n_multiply of which multiply bf16. */
Kd__Dtype kd_dtype_choose(Kd__Dtype wish, int64_t n_ranks, int64_t n_multiply);

/* Of products; the word is no longer auto. */
kd_dtype kd_dtype_of_word(Kd__Dtype word);

#endif
