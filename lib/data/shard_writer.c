/*
 * shard_writer.c - the header comes first in the file and last in time: counts and hash are known at the
 * end, and are patched in before the file gets its name.
 */
#include "data/shard_writer.h"

#include <string.h>
#include <xxhash.h>

#include "base/log.h"

enum { PIECE_TOKENS = 1024 };

static kd_shard_header new_header(const kd_shard_info *info, const char *split)
{
    kd_shard_header header = {
        .version = KD_SHARD_VERSION,
        .token_bytes = kd_shard_token_bytes(info->vocab_size),
        .info = *info,
    };
    const size_t n_split = strlen(split);
    KD_CHECK(n_split < sizeof header.info.split);
    memcpy(header.magic, KD_SHARD_MAGIC, sizeof header.magic);
    memset(header.info.split, 0, sizeof header.info.split);
    memcpy(header.info.split, split, n_split);
    return header;
}

kd_status kd_shard_writer_open(kd_shard_writer *writer,
                               const char *path,
                               const kd_shard_info *info,
                               const char *split)
{
    kd_shard_writer opened = {.header = new_header(info, split)};
    kd_status st = kd_writer_open(&opened.file, path, 0644);
    if (st) {
        return st;
    }
    st = kd_writer_add(&opened.file, &opened.header, sizeof opened.header);
    if (st) {
        goto err_abandon;
    }
    opened.hash_state = XXH3_createState();
    if (opened.hash_state == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to hash %s", path);
        goto err_abandon;
    }
    (void)XXH3_64bits_reset(opened.hash_state);
    *writer = opened;
    return KD_OK;

err_abandon:
    kd_writer_abandon(&opened.file);
    return st;
}

static kd_status add_piece(kd_shard_writer *writer, const uint32_t *ids, size_t n)
{
    uint16_t narrow[PIECE_TOKENS];
    const void *bytes = ids;
    const size_t size_bytes = n * writer->header.token_bytes;

    for (size_t i = 0; i < n; i++) {
        KD_CHECK(ids[i] < writer->header.info.vocab_size);
        narrow[i] = (uint16_t)ids[i];
    }
    if (writer->header.token_bytes == sizeof *narrow) {
        bytes = narrow;
    }
    (void)XXH3_64bits_update(writer->hash_state, bytes, size_bytes);
    writer->header.n_tokens += n;
    return kd_writer_add(&writer->file, bytes, size_bytes);
}

kd_status kd_shard_writer_add(kd_shard_writer *writer, const uint32_t *ids, size_t n)
{
    while (n > 0) {
        const size_t n_piece = n < PIECE_TOKENS ? n : PIECE_TOKENS;
        kd_status st = add_piece(writer, ids, n_piece);
        if (st) {
            return st;
        }
        ids += n_piece;
        n -= n_piece;
    }
    return KD_OK;
}

kd_status kd_shard_writer_commit(kd_shard_writer *writer)
{
    kd_shard_header *header = &writer->header;
    header->tokens_hash = XXH3_64bits_digest(writer->hash_state);
    header->header_hash = kd_shard_header_hash(header);

    kd_status st = kd_writer_patch(&writer->file, 0, header, sizeof *header);
    if (st) {
        kd_shard_writer_abandon(writer);
        return st;
    }
    st = kd_writer_commit(&writer->file);
    (void)XXH3_freeState(writer->hash_state);
    writer->hash_state = NULL;
    return st;
}

void kd_shard_writer_abandon(kd_shard_writer *writer)
{
    kd_writer_abandon(&writer->file);
    (void)XXH3_freeState(writer->hash_state);
    writer->hash_state = NULL;
}
