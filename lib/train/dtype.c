/* dtype.c - beside tensor/tensor.h, which has the rule, but knows no messages. */
#include "train/dtype.h"

#include "base/log.h"
#include "tensor/ops.h"

Kd__Dtype kd_dtype_choose(Kd__Dtype wish, int64_t n_ranks, int64_t n_multiply)
{
    if (wish != KD__DTYPE__AUTO) {
        return wish;
    }
    return kd_dtype_auto(n_ranks, n_multiply) == KD_F32 ? KD__DTYPE__F32 : KD__DTYPE__BF16;
}

kd_dtype kd_dtype_of_word(Kd__Dtype word)
{
    KD_CHECK(word != KD__DTYPE__AUTO);
    return word == KD__DTYPE__F32 ? KD_F32 : KD_BF16;
}
