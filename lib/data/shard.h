/*
 * shard.h - a file of packed tokens, mapped read-only.
 *
 * A header of 104 bytes (kd_shard_header), then n_tokens tokens of token_bytes each, all little
 * endian. Tokens take 2 bytes where the vocabulary has at most 65,536 of them, otherwise 4.
 * shard_writer.h writes it.
 *
 * A shard that opened is sound: header, size and hash were verified and every token is below
 * vocab_size, so readers check nothing again. Opening reads the file, and ticks (progress.h) as it gets on,
 * or ends where the process is to.
 *
 * Ownership: the path is not kept. Threads: an open shard is never changed and may be shared.
 */
#ifndef KD_DATA_SHARD_H
#define KD_DATA_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/file.h"
#include "base/status.h"

enum { KD_SHARD_VERSION = 1, KD_SHARD_SPLIT_BYTES = 16 };

#define KD_SHARD_MAGIC "KDTOKENS" /* without its NUL */

/* What the writer of a shard says about it. */
typedef struct kd_shard_info {
    uint32_t vocab_size;
    uint32_t end_token;
    uint64_t tokenizer_hash;          /* kd_tokenizer.hash                            */
    uint64_t fingerprint;             /* of the inputs and settings it was made from  */
    char split[KD_SHARD_SPLIT_BYTES]; /* "train" or "test", NUL-terminated and padded */
} kd_shard_info;

/* The first bytes of the file, as they stand there. */
typedef struct kd_shard_header {
    char magic[8];
    uint32_t version;
    uint32_t token_bytes; /* 2 or 4 */
    uint64_t n_tokens;
    uint64_t tokens_hash; /* XXH3-64 of the bytes behind the header */
    kd_shard_info info;
    uint64_t reserved[3]; /* zero */
    uint64_t header_hash; /* XXH3-64 of the fields above */
} kd_shard_header;

typedef struct kd_shard {
    kd_mapping mapping;
    const void *tokens; /* (n_tokens) u16 or u32, within the mapping */
    uint64_t n_tokens;
    uint32_t token_bytes;
    uint64_t tokens_hash; /* as in the header, verified */
    kd_shard_info info;
} kd_shard;

/*
 * KD_ERR_NOT_FOUND: no such file. KD_ERR_PROTO: no shard, truncated or corrupt; the message names
 * file, found and expected. KD_ERR_STOPPED: the process is to end.
 */
KD_MUST_USE kd_status kd_shard_open(kd_shard *shard, const char *path);
void kd_shard_close(kd_shard *shard); /* fine on {0} and twice */

/*
 * Copies a window of T tokens from token `first` on, and the T that follow each of them:
 * tokens[i] = shard[first + i], labels[i] = shard[first + i + 1]. first + T < n_tokens.
 */
void kd_shard_read(const kd_shard *shard,
                   uint64_t first,
                   uint32_t sequence_length,
                   int32_t *tokens,  /* (T) */
                   int32_t *labels); /* (T) */

/*
 * Whether a file has a whole header with this fingerprint and split and the size it states. Reads
 * the header alone and reports nothing: false says only that the shard must be made anew. Where it is
 * true, *n_tokens_out is how many tokens it holds.
 */
bool kd_shard_find(const char *path,
                   uint64_t fingerprint,
                   const char *split,
                   uint64_t *n_tokens_out);

#endif
