/*
 * order.h - which tokens the g-th sequence of a job holds.
 *
 * A shard of n tokens has floor((n - 1) / T) windows of T; window i covers the tokens
 * [i T, i T + T), and its labels are the tokens one further. Sequence g of a shuffled order
 * belongs to epoch e = floor(g / n_windows) and is window
 *
 *     kd_rng_permute(key(seed, e), g mod n_windows, n_windows)
 *
 * so each epoch shows each window once, in an order of its own, and any rank knows any sequence
 * without having been told. The order of held-out text is one such with a key that never changes:
 * its first n sequences are a sample spread over the whole text, and the same one for every model.
 *
 * B sequences of a batch, T tokens of a sequence. Threads: an order is never changed by its use.
 */
#ifndef KD_DATA_ORDER_H
#define KD_DATA_ORDER_H

#include <stdint.h>

#include "base/status.h"
#include "data/shard.h"

typedef struct kd_order {
    uint64_t n_windows; /* > 0 */
    uint64_t key;       /* of the seed */
    uint32_t sequence_length;
} kd_order;

/* Of a shard of so many tokens; 0 if that is none. */
uint64_t kd_order_windows(uint64_t n_tokens, uint32_t sequence_length);

/* KD_ERR_INVALID if the shard has no window of this length. sequence_length > 0. */
KD_MUST_USE kd_status kd_order_shuffled(kd_order *order,
                                        const kd_shard *shard,
                                        uint32_t sequence_length,
                                        uint64_t seed);
KD_MUST_USE kd_status kd_order_held_out(kd_order *order,
                                        const kd_shard *shard,
                                        uint32_t sequence_length);

/* The window of sequence g. */
uint64_t kd_order_index(const kd_order *order, uint64_t g);

/* The sequences [first, first + B). `shard` is the one the order was made for. */
void kd_batch_read(const kd_shard *shard,
                   const kd_order *order,
                   uint64_t first,
                   uint32_t n_sequences,
                   int32_t *tokens,  /* (B, T) */
                   int32_t *labels); /* (B, T) */

#endif
