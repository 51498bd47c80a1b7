/*
 * transport.c - a row of logits against a row of hidden states, in bytes as they are sent. Both are exact,
 * so bytes alone decide; and a formula, not a measurement, so that ranks and restarts come to one answer.
 */
#include "distill/loss.h"

Kd__Teacher__Transport
kd_transport_resolve(Kd__Teacher__Transport wish, const kd_model_config *teacher, kd_dtype compute)
{
    if (wish != KD__TEACHER__TRANSPORT__AUTO) {
        return wish;
    }
    const size_t logits = (size_t)teacher->vocab_size * kd_dtype_bytes(KD_F32);
    const size_t hidden = (size_t)teacher->hidden_size * kd_dtype_bytes(compute);
    return hidden < logits ? KD__TEACHER__TRANSPORT__HIDDEN : KD__TEACHER__TRANSPORT__LOGITS;
}
