/*
 * batch.h - what goes through a model at once: whole sequences of one length, in host memory.
 *
 * With B = n_batch, T = n_tokens and N = B * T rows, every array has N entries, sequence by
 * sequence. The arrays are borrowed: a model reads them until its forward pass and the backward
 * pass that belongs to it have returned.
 *
 * Threads: whoever has it; nobody writes it while it is on its way through a model.
 */
#ifndef KD_MODEL_BATCH_H
#define KD_MODEL_BATCH_H

#include <stdint.h>

typedef struct kd_batch {
    int64_t n_batch;          /* B                                                               */
    int64_t n_tokens;         /* T                                                               */
    const int32_t *tokens;    /* each below the vocabulary                                       */
    const int32_t *labels;    /* -100 counts nowhere; NULL: there are none. Forward passes do not
                                 look at them                                                    */
    const int32_t *positions; /* of each row in its document; NULL: row mod T                    */
    const int32_t *segments;  /* the document that a row belongs to: equal numbers lie side by
                                 side; -1 is padding. NULL: a sequence is one document           */
    uint64_t first;           /* global number of its first sequence, which contains the epoch   */
} kd_batch;

#endif
