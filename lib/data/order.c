/*
 * order.c - a permutation that is computed, not stored: nothing to save in a checkpoint, nothing to send
 * between ranks. Both orders are one function with two keys.
 */
#include "data/order.h"

#include "base/log.h"
#include "base/rng.h"

uint64_t kd_order_windows(uint64_t n_tokens, uint32_t sequence_length)
{
    return n_tokens == 0 ? 0 : (n_tokens - 1) / sequence_length;
}

static kd_status
order_init(kd_order *order, const kd_shard *shard, uint32_t sequence_length, uint64_t key)
{
    KD_CHECK(sequence_length > 0);
    if (shard->n_tokens <= sequence_length) {
        return kd_fail(KD_ERR_INVALID,
                       "the %s shard has no sequence of %u tokens: found %llu tokens, expected "
                       "at least one more than a sequence",
                       shard->info.split, sequence_length, (unsigned long long)shard->n_tokens);
    }
    *order = (kd_order){
        .n_windows = kd_order_windows(shard->n_tokens, sequence_length),
        .key = key,
        .sequence_length = sequence_length,
    };
    return KD_OK;
}

kd_status
kd_order_shuffled(kd_order *order, const kd_shard *shard, uint32_t sequence_length, uint64_t seed)
{
    return order_init(order, shard, sequence_length, kd_rng_key(seed, "order"));
}

kd_status kd_order_held_out(kd_order *order, const kd_shard *shard, uint32_t sequence_length)
{
    return order_init(order, shard, sequence_length, kd_rng_key(0, "held out"));
}

uint64_t kd_order_index(const kd_order *order, uint64_t g)
{
    const uint64_t epoch = g / order->n_windows;
    return kd_rng_permute(kd_rng_u64(order->key, epoch), g % order->n_windows, order->n_windows);
}

void kd_batch_read(const kd_shard *shard,
                   const kd_order *order,
                   uint64_t first,
                   uint32_t n_sequences,
                   int32_t *tokens,
                   int32_t *labels)
{
    const uint32_t length = order->sequence_length;

    for (uint32_t b = 0; b < n_sequences; b++) {
        kd_shard_read(shard, kd_order_index(order, first + b) * length, length, tokens, labels);
        tokens += length;
        labels += length;
    }
}
