/*
 * logits.c - for people and programs that want to see logits: a listener at the chunks of the vocabulary
 * loss, since a batch of logits may be larger than the model.
 */
#include "model/logits.h"

/* `user` is where the place of the next chunk is kept. */
static void take_chunk(void *user, const kd_vocab_chunk *chunk)
{
    float **next = user;
    chunk->be->ops->download(chunk->be, *next, chunk->student);
    *next += kd_tensor_elements(chunk->student);
}

kd_status kd_logits_download(kd_backend *be, kd_tensor hidden, kd_tensor lm_head, float *logits_out)
{
    void *sums = NULL;
    kd_status st = kd_backend_place(be, KD_MEMORY_DEVICE, KD_VOCAB_SUMS * kd_dtype_bytes(KD_F64),
                                    &sums, "sums of logits");
    if (st) {
        return st;
    }
    float *next = logits_out;
    be->ops->vocab_loss(be, &(kd_vocab_loss){.hidden = hidden,
                                             .lm_head = lm_head,
                                             .sums = kd_tensor_1d(sums, KD_F64, KD_VOCAB_SUMS),
                                             .temperature = 1.0f,
                                             .chunk = take_chunk,
                                             .user = &next});
    st = kd_backend_wait(be);
    be->ops->free(be, sums);
    return st;
}
