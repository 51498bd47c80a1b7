/*
 * shard_writer.h - writes the file that shard.h reads: whole or not at all.
 *
 * As with kd_writer: open, add as often as needed, then commit or abandon. Memory does not grow
 * with the tokens. Not thread-safe; every call may block on the disk.
 */
#ifndef KD_DATA_SHARD_WRITER_H
#define KD_DATA_SHARD_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/writer.h"
#include "data/shard.h"

typedef struct kd_shard_writer {
    kd_writer file;
    kd_shard_header header; /* as far as it is known; complete at commit */
    void *hash_state;       /* owned: XXH3 of the tokens so far          */
} kd_shard_writer;

/* `split` is at most KD_SHARD_SPLIT_BYTES - 1 long; info->split is not looked at. */
KD_MUST_USE kd_status kd_shard_writer_open(kd_shard_writer *writer,
                                           const char *path,
                                           const kd_shard_info *info,
                                           const char *split);

/* Every id is below the vocabulary size. */
KD_MUST_USE kd_status kd_shard_writer_add(kd_shard_writer *writer, const uint32_t *ids, size_t n);

/* Releases the writer in every case. */
KD_MUST_USE kd_status kd_shard_writer_commit(kd_shard_writer *writer);
void kd_shard_writer_abandon(kd_shard_writer *writer);

/* The rules of the format that the reader shares. */
uint64_t kd_shard_header_hash(const kd_shard_header *header);
uint32_t kd_shard_token_bytes(uint32_t vocab_size);

#endif
