/*
 * transport.c - a row of logits against a row of hidden states, in bytes as they are sent. Both are exact,
 * so bytes alone decide; and a formula, not a measurement, so that ranks and restarts come to one answer.
 */
#include "distill/loss.h"

size_t kd_transport_token_bytes(Kd__Teacher__Transport transport,
                                const kd_model_config *teacher,
                                kd_dtype compute)
{
    return transport == KD__TEACHER__TRANSPORT__HIDDEN
               ? (size_t)teacher->hidden_size * kd_dtype_bytes(compute)
               : (size_t)teacher->vocab_size * kd_dtype_bytes(KD_F32);
}

Kd__Teacher__Transport
kd_transport_resolve(Kd__Teacher__Transport wish, const kd_model_config *teacher, kd_dtype compute)
{
    if (wish != KD__TEACHER__TRANSPORT__AUTO) {
        return wish;
    }
    const size_t logits =
        kd_transport_token_bytes(KD__TEACHER__TRANSPORT__LOGITS, teacher, compute);
    const size_t hidden =
        kd_transport_token_bytes(KD__TEACHER__TRANSPORT__HIDDEN, teacher, compute);
    return hidden < logits ? KD__TEACHER__TRANSPORT__HIDDEN : KD__TEACHER__TRANSPORT__LOGITS;
}
