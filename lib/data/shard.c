/*
 * shard.c - everything is verified once, at the opening, because it is mapped and read without a check
 * from then on, by every rank, for days.
 */
#include "data/shard.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/progress.h"
#include "data/shard_writer.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are mapped as they are");
_Static_assert(sizeof(kd_shard_header) == 104, "the header has no padding");

enum { PIECE_BYTES = 1 << 20 };

typedef unsigned long long ull;

uint64_t kd_shard_header_hash(const kd_shard_header *header)
{
    return XXH3_64bits(header, offsetof(kd_shard_header, header_hash));
}

uint32_t kd_shard_token_bytes(uint32_t vocab_size)
{
    return vocab_size <= 65536 ? 2 : 4;
}

static kd_status check_header(const kd_shard_header *header, const char *path)
{
    if (memcmp(header->magic, KD_SHARD_MAGIC, sizeof header->magic) != 0) {
        return kd_fail(KD_ERR_PROTO, "%s is not a token shard: wrong first 8 bytes", path);
    }
    if (header->version != KD_SHARD_VERSION) {
        return kd_fail(KD_ERR_PROTO, "%s: found shard version %u, expected %d", path,
                       header->version, KD_SHARD_VERSION);
    }
    const uint64_t hash = kd_shard_header_hash(header);
    if (header->header_hash != hash) {
        return kd_fail(KD_ERR_PROTO,
                       "%s is corrupt: its header hashes to %016llx, expected %016llx", path,
                       (ull)hash, (ull)header->header_hash);
    }
    if (header->info.vocab_size == 0 || header->info.vocab_size > INT32_MAX) {
        return kd_fail(KD_ERR_PROTO, "%s: found a vocabulary of %u, expected 1 to %d", path,
                       header->info.vocab_size, INT32_MAX);
    }
    const uint32_t token_bytes = kd_shard_token_bytes(header->info.vocab_size);
    if (header->token_bytes != token_bytes) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: found tokens of %u bytes, expected %u for a vocabulary of %u", path,
                       header->token_bytes, token_bytes, header->info.vocab_size);
    }
    if (header->info.split[KD_SHARD_SPLIT_BYTES - 1] != '\0') {
        return kd_fail(KD_ERR_PROTO, "%s: the name of its split does not end", path);
    }
    return KD_OK;
}

/* Whether a file of `size_bytes` holds the tokens its header states, written so as not to wrap. */
static bool size_fits(const kd_shard_header *header, uint64_t size_bytes)
{
    const uint64_t body = size_bytes - sizeof *header;
    return body % header->token_bytes == 0 && body / header->token_bytes == header->n_tokens;
}

static uint32_t token_at(const kd_shard *shard, uint64_t i)
{
    return shard->token_bytes == 2 ? ((const uint16_t *)shard->tokens)[i]
                                   : ((const uint32_t *)shard->tokens)[i];
}

/* Tokens [first, first + n): below the vocabulary's size. */
static kd_status check_range(const kd_shard *shard, const char *path, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        if (token_at(shard, i) >= shard->info.vocab_size) {
            return kd_fail(KD_ERR_PROTO, "%s: token %llu is %u, expected less than %u", path,
                           (ull)i, token_at(shard, i), shard->info.vocab_size);
        }
    }
    return KD_OK;
}

/* Piece by piece, with a sign of progress after each: on a slow disk a shard takes minutes. */
static kd_status hash_tokens(const kd_shard *shard, XXH3_state_t *state, uint64_t *hash_out)
{
    const uint8_t *bytes = shard->tokens;
    const uint64_t size = shard->n_tokens * shard->token_bytes;
    kd_status st = KD_OK;
    XXH3_64bits_reset(state);
    for (uint64_t at = 0; at < size && !st; at += PIECE_BYTES) {
        const uint64_t n = size - at < PIECE_BYTES ? size - at : PIECE_BYTES;
        XXH3_64bits_update(state, bytes + at, (size_t)n);
        st = kd_progress_go_on();
    }
    if (!st) {
        *hash_out = XXH3_64bits_digest(state);
    }
    return st;
}

static kd_status check_hash(const kd_shard *shard, const char *path)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to hash %s", path);
    }
    uint64_t hash = 0;
    const kd_status st = hash_tokens(shard, state, &hash);
    XXH3_freeState(state);
    if (!st && hash != shard->tokens_hash) {
        return kd_fail(KD_ERR_PROTO, "%s is corrupt: its tokens hash to %016llx, expected %016llx",
                       path, (ull)hash, (ull)shard->tokens_hash);
    }
    return st;
}

static kd_status check_tokens(const kd_shard *shard, const char *path)
{
    const uint64_t n_piece = PIECE_BYTES / shard->token_bytes;
    kd_status st = check_hash(shard, path);
    for (uint64_t first = 0; first < shard->n_tokens && !st; first += n_piece) {
        const uint64_t left = shard->n_tokens - first;
        st = check_range(shard, path, first, left < n_piece ? left : n_piece);
        st = st ? st : kd_progress_go_on();
    }
    return st;
}

static kd_status check_mapping(const kd_mapping *mapping, const char *path, kd_shard *shard_out)
{
    kd_shard_header header;
    if (mapping->size_bytes < sizeof header) {
        return kd_fail(KD_ERR_PROTO, "%s is truncated: found %zu bytes, a shard has at least %zu",
                       path, mapping->size_bytes, sizeof header);
    }
    memcpy(&header, mapping->data, sizeof header);
    kd_status st = check_header(&header, path);
    if (st) {
        return st;
    }
    if (!size_fits(&header, mapping->size_bytes)) {
        return kd_fail(KD_ERR_PROTO,
                       "%s has the wrong size: found %zu bytes, expected %zu and %llu tokens of %u",
                       path, mapping->size_bytes, sizeof header, (ull)header.n_tokens,
                       header.token_bytes);
    }
    const kd_shard shard = {
        .mapping = *mapping,
        .tokens = mapping->data + sizeof header,
        .n_tokens = header.n_tokens,
        .token_bytes = header.token_bytes,
        .tokens_hash = header.tokens_hash,
        .info = header.info,
    };
    st = check_tokens(&shard, path);
    if (st) {
        return st;
    }
    *shard_out = shard;
    return KD_OK;
}

kd_status kd_shard_open(kd_shard *shard, const char *path)
{
    kd_mapping mapping;
    kd_status st = kd_file_map(path, &mapping);
    if (st) {
        return st;
    }
    st = check_mapping(&mapping, path, shard);
    if (st) {
        kd_file_unmap(&mapping);
    }
    return st;
}

void kd_shard_close(kd_shard *shard)
{
    kd_file_unmap(&shard->mapping);
    *shard = (kd_shard){0};
}

void kd_shard_read(const kd_shard *shard,
                   uint64_t first,
                   uint32_t sequence_length,
                   int32_t *tokens,
                   int32_t *labels)
{
    KD_CHECK(sequence_length < shard->n_tokens && first < shard->n_tokens - sequence_length);
    for (uint32_t i = 0; i < sequence_length; i++) {
        tokens[i] = (int32_t)token_at(shard, first + i);
        labels[i] = (int32_t)token_at(shard, first + i + 1);
    }
}

static bool read_header(const char *path, kd_shard_header *header_out, uint64_t *size_out)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    const bool ok = fstat(fd, &info) == 0 &&
                    read(fd, header_out, sizeof *header_out) == (ssize_t)sizeof *header_out;
    (void)close(fd);
    if (ok) {
        *size_out = (uint64_t)info.st_size;
    }
    return ok;
}

static bool is_made_of(const kd_shard_header *header, uint64_t fingerprint, const char *split)
{
    return memcmp(header->magic, KD_SHARD_MAGIC, sizeof header->magic) == 0 &&
           header->version == KD_SHARD_VERSION &&
           header->header_hash == kd_shard_header_hash(header) &&
           header->info.fingerprint == fingerprint &&
           strncmp(header->info.split, split, KD_SHARD_SPLIT_BYTES) == 0 &&
           (header->token_bytes == 2 || header->token_bytes == 4);
}

bool kd_shard_find(const char *path,
                   uint64_t fingerprint,
                   const char *split,
                   uint64_t *n_tokens_out)
{
    kd_shard_header header;
    uint64_t size_bytes;
    const bool found = read_header(path, &header, &size_bytes) &&
                       is_made_of(&header, fingerprint, split) && size_fits(&header, size_bytes);
    if (found) {
        *n_tokens_out = header.n_tokens;
    }
    return found;
}
