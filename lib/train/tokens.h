/*
 * tokens.h - token ids and labels from outside, before they become rows of a table.
 *
 * Pure. Threads: any.
 */
#ifndef KD_TRAIN_TOKENS_H
#define KD_TRAIN_TOKENS_H

#include <stdint.h>

#include "base/status.h"

/*
 * Tokens and labels (n_sequences * n_tokens) must be below n_vocab; a label may be -100, and labels
 * NULL.
 * KD_ERR_INVALID names the sequence, whose numbers begin with `first`, the place, what was found and what
 * was expected.
 */
KD_MUST_USE kd_status kd_tokens_check(const int32_t *tokens,
                                      const int32_t *labels,
                                      int64_t n_sequences,
                                      int64_t n_tokens,
                                      int64_t n_vocab,
                                      uint64_t first);

#endif
