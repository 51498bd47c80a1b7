/*
 * tokenizer.h - text to tokens.
 *
 * A tokenizer is a table of operations over its own state; tokenizer_byte.c is one, and another
 * kind is another such file and a line in kd_tokenizer_create().
 *
 * Text comes in pieces, so a document may be larger than memory. encode() may leave bytes at the
 * end of a piece that it cannot decide without the next one; the caller offers them again in
 * front of it.
 *
 * Threads: a tokenizer is not changed by its use and may be shared.
 */
#ifndef KD_DATA_TOKENIZER_H
#define KD_DATA_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef enum kd_tokenizer_kind {
    KD_TOKENIZER_BYTE, /* one token a byte, 256 in all; byte 0 ends a document */
    KD_TOKENIZER_KINDS,
} kd_tokenizer_kind;

/* A growing row of tokens. Starts as {0}. */
typedef struct kd_tokens {
    uint32_t *ids;
    size_t n;
    size_t capacity;
} kd_tokens;

KD_MUST_USE kd_status kd_tokens_reserve(kd_tokens *tokens, size_t n_more);
void kd_tokens_release(kd_tokens *tokens);

/* A piece of a document, and where it stands, for messages. */
typedef struct kd_text_piece {
    const char *bytes;
    size_t size;
    bool is_last;       /* the document ends with it                               */
    const char *origin; /* e.g. "book.txt", or "notes.jsonl:17" for a field's text */
    uint64_t offset;    /* of bytes[0] from the start of the document              */
} kd_text_piece;

typedef struct kd_tokenizer kd_tokenizer;

struct kd_tokenizer {
    const char *name;    /* stable, e.g. "byte"                                              */
    uint64_t hash;       /* of all that its output depends on: equal hashes, equal tokens    */
    uint32_t vocab_size; /* every token is below it                                          */
    uint32_t end_token;  /* ends a document; never the token of a text                       */

    kd_status (*encode)(const kd_tokenizer *tokenizer,
                        const kd_text_piece *piece,
                        kd_tokens *tokens,
                        size_t *used_out);
    /* Writes what Hugging Face tools need to make the same tokens: tokenizer.json and its config. */
    kd_status (*export)(const char *folder);
    void (*destroy)(kd_tokenizer *tokenizer);
};

KD_MUST_USE kd_status kd_tokenizer_create(kd_tokenizer_kind kind, kd_tokenizer **tokenizer_out);
void kd_tokenizer_destroy(kd_tokenizer *tokenizer);

/*
 * Appends the tokens of the piece. *used_out bytes of it were consumed: all of them if it is the
 * last. KD_ERR_INVALID where the text cannot be written in tokens, with origin and offset; then
 * `tokens` is as before.
 */
KD_MUST_USE kd_status kd_tokenizer_encode(const kd_tokenizer *tokenizer,
                                          const kd_text_piece *piece,
                                          kd_tokens *tokens,
                                          size_t *used_out);

/* Into an existing folder, beside the model. */
KD_MUST_USE kd_status kd_tokenizer_export(const kd_tokenizer *tokenizer, const char *folder);

/* The table of each kind, for kd_tokenizer_create() alone. */
KD_MUST_USE kd_status kd_tokenizer_byte_create(kd_tokenizer **tokenizer_out);
KD_MUST_USE kd_status kd_tokenizer_byte_export(const char *folder);

#endif
