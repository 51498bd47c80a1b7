/* One token a byte. It has no state, so all share one table and nothing is freed. */
#include <string.h>

#include "base/log.h"
#include "data/tokenizer.h"

enum { VOCAB_SIZE = 256, END_TOKEN = 0 };

static kd_status encode(const kd_tokenizer *tokenizer,
                        const kd_text_piece *piece,
                        kd_tokens *tokens,
                        size_t *used_out)
{
    (void)tokenizer;
    const char *nul = piece->size > 0 ? memchr(piece->bytes, '\0', piece->size) : NULL;
    if (nul != NULL) {
        const uint64_t at = piece->offset + (uint64_t)(nul - piece->bytes);
        return kd_fail(KD_ERR_INVALID,
                       "%s: byte %llu is NUL, which the byte tokenizer keeps for the end of a "
                       "document; expected text",
                       piece->origin, (unsigned long long)at);
    }
    kd_status st = kd_tokens_reserve(tokens, piece->size);
    if (st) {
        return st;
    }
    uint32_t *ids = tokens->ids + tokens->n;
    for (size_t i = 0; i < piece->size; i++) {
        ids[i] = (unsigned char)piece->bytes[i];
    }
    tokens->n += piece->size;
    *used_out = piece->size;
    return KD_OK;
}

static void destroy(kd_tokenizer *tokenizer)
{
    (void)tokenizer;
}

kd_status kd_tokenizer_byte_create(kd_tokenizer **tokenizer_out)
{
    static kd_tokenizer byte = {
        .name = "byte",
        .hash = 0x6279746531ull, /* "byte1": another rule would be another number */
        .vocab_size = VOCAB_SIZE,
        .end_token = END_TOKEN,
        .encode = encode,
        .export = kd_tokenizer_byte_export,
        .destroy = destroy,
    };
    *tokenizer_out = &byte;
    return KD_OK;
}
