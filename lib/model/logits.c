/*
 * logits.c - for people and programs that want to see logits; by chunks of rows, since a batch of them may
 * be larger than the model.
 */
#include "model/logits.h"

enum { CHUNK_ROWS = 256 };

kd_status kd_logits_download(kd_backend *be, kd_tensor hidden, kd_tensor lm_head, float *logits_out)
{
    const int64_t n_rows = kd_tensor_rows(hidden), n_vocab = kd_tensor_rows(lm_head);
    const size_t chunk_bytes = (size_t)(CHUNK_ROWS * n_vocab) * kd_dtype_bytes(KD_F32);
    void *chunk = be->ops->alloc(be, KD_MEMORY_DEVICE, chunk_bytes);
    if (chunk == NULL) {
        return KD_ERR_NOMEM;
    }
    for (int64_t first = 0; first < n_rows; first += CHUNK_ROWS) {
        const int64_t left = n_rows - first;
        const int64_t n = left < CHUNK_ROWS ? left : CHUNK_ROWS;
        const kd_tensor logits = kd_tensor_2d(chunk, KD_F32, n, n_vocab);
        be->ops->linear(be, logits, kd_tensor_slice_rows(hidden, first, n), lm_head);
        be->ops->download(be, logits_out + first * n_vocab, logits);
    }
    const kd_status st = kd_backend_wait(be);
    be->ops->free(be, chunk);
    return st;
}
