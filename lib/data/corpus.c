/*
 * corpus.c - one loop for both formats: what was read waits in `pending` until what follows decides it,
 * half a character of a text or half a line. So memory is that of a piece, however long a file is.
 */
#include "data/corpus.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/text.h"

enum { CHUNK_BYTES = 1 << 18, MAX_LINE_BYTES = 1 << 28 };

/* One file while it is read. */
typedef struct reader {
    const kd_corpus *corpus;
    kd_token_sink sink;
    void *context;
    const char *path;
    int fd;
    char *chunk;      /* CHUNK_BYTES */
    kd_tokens tokens; /* of one piece */
    kd_text pending;  /* bytes that wait for what follows: an undecided end, or half a line */
    uint64_t offset;  /* TEXT: of pending within the document */
    uint64_t line;    /* JSONL: number of the line in pending, from 1 */
    bool has_text;
} reader;

static kd_status next_chunk(reader *r, size_t *size_out)
{
    const kd_status st = kd_progress_go_on();
    if (st) {
        return st;
    }
    for (;;) {
        const ssize_t n = read(r->fd, r->chunk, CHUNK_BYTES);
        if (n >= 0) {
            *size_out = (size_t)n;
            return KD_OK;
        }
        if (errno != EINTR) {
            const int error = errno;
            return kd_fail(kd_status_of_errno(error), "cannot read %s: %s", r->path,
                           strerror(error));
        }
    }
}

static kd_status no_memory(const reader *r)
{
    return kd_fail(KD_ERR_NOMEM, "no memory to read %s", r->path);
}

/* Encodes a piece and hands its tokens on, with the end token behind the last one. */
static kd_status emit(reader *r, const kd_text_piece *piece, size_t *used_out)
{
    size_t used = 0;
    r->tokens.n = 0;
    kd_status st = kd_tokenizer_encode(r->corpus->tokenizer, piece, &r->tokens, &used);
    if (st) {
        return st;
    }
    if (piece->is_last) {
        KD_CHECK(used == piece->size);
        st = kd_tokens_reserve(&r->tokens, 1);
        if (st) {
            return st;
        }
        r->tokens.ids[r->tokens.n++] = r->corpus->tokenizer->end_token;
    }
    *used_out = used;
    return r->sink(r->context, r->tokens.ids, r->tokens.n);
}

static bool is_blank(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!isspace((unsigned char)bytes[i])) {
            return false;
        }
    }
    return true;
}

/* Encodes what is pending as far as it can be decided, and keeps the rest. */
static kd_status emit_pending(reader *r, bool is_last)
{
    const kd_text_piece piece = {
        .bytes = r->pending.data,
        .size = r->pending.size,
        .is_last = is_last,
        .origin = r->path,
        .offset = r->offset,
    };
    size_t used;
    kd_status st = emit(r, &piece, &used);
    if (st) {
        return st;
    }
    r->pending.size -= used;
    memmove(r->pending.data, r->pending.data + used, r->pending.size);
    r->offset += used;
    return KD_OK;
}

static kd_status read_text(reader *r)
{
    for (;;) {
        size_t size = 0;
        kd_status st = next_chunk(r, &size);
        if (st) {
            return st;
        }
        r->has_text = r->has_text || !is_blank(r->chunk, size);
        const bool is_last = size == 0;
        if (is_last && !r->has_text) {
            return KD_OK; /* the caller says so */
        }
        kd_text_add_bytes(&r->pending, r->chunk, size);
        if (r->pending.failed) {
            return no_memory(r);
        }
        st = emit_pending(r, is_last);
        if (st || is_last) {
            return st;
        }
    }
}

static const char *json_type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

static kd_status emit_document(reader *r, const json_t *text)
{
    char *origin = NULL;
    size_t used;

    if (json_string_length(text) == 0) {
        return KD_OK;
    }
    if (asprintf(&origin, "%s:%llu", r->path, (unsigned long long)r->line) < 0) {
        return no_memory(r);
    }
    const kd_text_piece piece = {
        .bytes = json_string_value(text),
        .size = json_string_length(text),
        .is_last = true,
        .origin = origin,
    };
    r->has_text = r->has_text || !is_blank(piece.bytes, piece.size);
    const kd_status st = emit(r, &piece, &used);
    free(origin);
    return st;
}

static kd_status emit_object(reader *r, const json_t *object)
{
    const unsigned long long line = r->line;
    const char *field = r->corpus->text_field;

    if (!json_is_object(object)) {
        return kd_fail(KD_ERR_INVALID, "%s:%llu: found %s, expected an object with the field '%s'",
                       r->path, line, json_type_name(object), field);
    }
    const json_t *text = json_object_get(object, field);
    if (text == NULL) {
        return kd_fail(KD_ERR_INVALID, "%s:%llu: there is no field '%s'", r->path, line, field);
    }
    if (!json_is_string(text)) {
        return kd_fail(KD_ERR_INVALID, "%s:%llu: field '%s' is %s, expected a string", r->path,
                       line, field, json_type_name(text));
    }
    return emit_document(r, text);
}

/* The line in pending, complete. */
static kd_status emit_line(reader *r)
{
    json_error_t error;

    r->line++;
    if (is_blank(r->pending.data, r->pending.size)) {
        kd_text_clear(&r->pending);
        return KD_OK;
    }
    /* A NUL is let through, so that the tokenizer says what is wrong with it and where. */
    json_t *value = json_loadb(r->pending.data, r->pending.size,
                               JSON_ALLOW_NUL | JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (value == NULL) {
        return kd_fail(KD_ERR_PROTO, "%s:%llu:%d: not JSON: %s", r->path,
                       (unsigned long long)r->line, error.column, error.text);
    }
    const kd_status st = emit_object(r, value);
    json_decref(value);
    kd_text_clear(&r->pending);
    return st;
}

static kd_status add_to_line(reader *r, const char *bytes, size_t size)
{
    if (size > MAX_LINE_BYTES - r->pending.size) {
        return kd_fail(KD_ERR_INVALID, "%s:%llu: the line is longer than %d bytes", r->path,
                       (unsigned long long)r->line + 1, (int)MAX_LINE_BYTES);
    }
    kd_text_add_bytes(&r->pending, bytes, size);
    return r->pending.failed ? no_memory(r) : KD_OK;
}

static kd_status emit_lines(reader *r, size_t size)
{
    const char *at = r->chunk, *const end = r->chunk + size;

    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline == NULL ? end : newline;
        kd_status st = add_to_line(r, at, (size_t)(stop - at));
        if (st || newline == NULL) {
            return st;
        }
        st = emit_line(r);
        if (st) {
            return st;
        }
        at = newline + 1;
    }
    return KD_OK;
}

static kd_status read_lines(reader *r)
{
    for (;;) {
        size_t size = 0;
        kd_status st = next_chunk(r, &size);
        if (st) {
            return st;
        }
        if (size == 0) {
            return r->pending.size > 0 ? emit_line(r) : KD_OK; /* a last line without its end */
        }
        st = emit_lines(r, size);
        if (st) {
            return st;
        }
    }
}

static kd_status read_open_file(reader *r)
{
    const kd_status st = r->corpus->text_field == NULL ? read_text(r) : read_lines(r);
    if (st) {
        return st;
    }
    return r->has_text ? KD_OK : kd_fail(KD_ERR_INVALID, "no text in %s", r->path);
}

/* O_NONBLOCK: a pipe is refused, not waited for. */
static kd_status open_file(const char *path, int *fd_out)
{
    struct stat info;
    const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        const int error = errno;
        if (fd >= 0) {
            (void)close(fd);
        }
        return kd_fail(kd_status_of_open_errno(error), "cannot open %s: %s", path, strerror(error));
    }
    if (!S_ISREG(info.st_mode)) {
        (void)close(fd);
        return kd_fail(KD_ERR_INVALID, "cannot read %s: %s", path,
                       S_ISDIR(info.st_mode) ? strerror(EISDIR) : "it is not a regular file");
    }
    *fd_out = fd;
    return KD_OK;
}

static kd_status read_file(reader *r)
{
    kd_text_clear(&r->pending);
    r->offset = r->line = 0;
    r->has_text = false;
    kd_status st = open_file(r->path, &r->fd);
    if (!st) {
        st = read_open_file(r);
        (void)close(r->fd);
    }
    return st;
}

kd_status kd_corpus_read(const kd_corpus *corpus, kd_token_sink sink, void *context)
{
    reader r = {.corpus = corpus, .sink = sink, .context = context, .chunk = malloc(CHUNK_BYTES)};
    kd_status st = KD_OK;

    if (r.chunk == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to read text");
    }
    for (size_t i = 0; i < corpus->n_files && !st; i++) {
        r.path = corpus->files[i];
        st = read_file(&r);
    }
    kd_text_release(&r.pending);
    kd_tokens_release(&r.tokens);
    free(r.chunk);
    return st;
}
