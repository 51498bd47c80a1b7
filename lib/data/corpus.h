/*
 * corpus.h - the documents of text files and JSON lines, as tokens, in the order of the files.
 *
 * A text file is one document. Of JSON lines each is an object whose field `text_field` is one
 * document; blank lines and empty documents are passed over.
 *
 * Every document is followed by the tokenizer's end token. Files are streamed: memory is that of
 * one piece of a text file, or of one line.
 *
 * Threads: any. Blocks on the disk.
 */
#ifndef KD_DATA_CORPUS_H
#define KD_DATA_CORPUS_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "data/tokenizer.h"

typedef struct kd_corpus {
    const char *const *files;
    size_t n_files;
    const char *text_field; /* of JSON lines; NULL: each file is one text */
    const kd_tokenizer *tokenizer;
} kd_corpus;

/* Takes the next tokens of the stream; a status other than KD_OK ends the reading with it. */
typedef kd_status (*kd_token_sink)(void *context, const uint32_t *ids, size_t n);

/*
 * KD_ERR_NOT_FOUND or KD_ERR_IO for a file that cannot be read; KD_ERR_PROTO for a line that is no
 * JSON; KD_ERR_INVALID for a file without text, a missing field or one that is no string. The
 * message has the file, and the line where there is one.
 */
KD_MUST_USE kd_status kd_corpus_read(const kd_corpus *corpus, kd_token_sink sink, void *context);

#endif
