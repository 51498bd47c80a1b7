/*
 * tokenizer.c - the one place that maps a kind to its table of operations. Tokens are checked here before
 * a table sees them, so that each kind need not.
 */
#include "data/tokenizer.h"

#include <stdlib.h>

#include "base/log.h"

enum { LEAST_CAPACITY = 256 };

kd_status kd_tokens_reserve(kd_tokens *tokens, size_t n_more)
{
    const size_t most = SIZE_MAX / 2 / sizeof *tokens->ids;
    if (n_more > most - tokens->n) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %zu more tokens", n_more);
    }
    const size_t needed = tokens->n + n_more;
    if (needed <= tokens->capacity) {
        return KD_OK;
    }
    size_t capacity = tokens->capacity < LEAST_CAPACITY ? LEAST_CAPACITY : tokens->capacity;
    while (capacity < needed) {
        capacity *= 2;
    }
    uint32_t *ids = realloc(tokens->ids, capacity * sizeof *ids);
    if (ids == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %zu tokens", capacity);
    }
    tokens->ids = ids;
    tokens->capacity = capacity;
    return KD_OK;
}

void kd_tokens_release(kd_tokens *tokens)
{
    free(tokens->ids);
    *tokens = (kd_tokens){0};
}

kd_status kd_tokenizer_create(kd_tokenizer_kind kind, kd_tokenizer **tokenizer_out)
{
    switch (kind) {
    case KD_TOKENIZER_BYTE:
        return kd_tokenizer_byte_create(tokenizer_out);
    case KD_TOKENIZER_KINDS:
        break;
    }
    return kd_fail(KD_ERR_ARG, "there is no tokenizer of kind %d", (int)kind);
}

void kd_tokenizer_destroy(kd_tokenizer *tokenizer)
{
    if (tokenizer != NULL) {
        tokenizer->destroy(tokenizer);
    }
}

kd_status kd_tokenizer_encode(const kd_tokenizer *tokenizer,
                              const kd_text_piece *piece,
                              kd_tokens *tokens,
                              size_t *used_out)
{
    return tokenizer->encode(tokenizer, piece, tokens, used_out);
}

kd_status kd_tokenizer_export(const kd_tokenizer *tokenizer, const char *folder)
{
    return tokenizer->export(folder);
}
