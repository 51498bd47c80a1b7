/*
 * check.h - collects what is wrong with a message, and finds what its fields' facts tell.
 *
 * A mistake is a line "PATH: found X, expected Y". A person gets up to KD_MISTAKES_MAX of them, and
 * so corrects a file once; there the walk ends, since what a peer sent may have millions.
 *
 * Pure. Threads: any, one checker at a time.
 */
#ifndef KD_MESSAGE_CHECK_H
#define KD_MESSAGE_CHECK_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"
#include "message/facts.h"

#define KD_PATH_BYTES   256 /* more than any path has: types do not contain themselves */
#define KD_MISTAKES_MAX 100

/* Starts as {0}; kd_text_release(&lines) ends it. */
typedef struct kd_checker {
    kd_text lines;     /* each ends with a newline */
    size_t n_mistakes; /* KD_MISTAKES_MAX: there may be more, which are not looked for */
    const char *const
        *left_out;   /* paths of fields not to be looked at, a NULL behind them; or NULL */
    bool is_unsound; /* unknown enum values or fields, numbers that are not finite */
} kd_checker;

/* `format` gives all behind "PATH: ". Adds nothing to a checker that is full. */
void kd_checker_add(kd_checker *c, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Whether it has all that it takes: what goes on looking for more looks in vain. */
bool kd_checker_is_full(const kd_checker *c);

/* A number within the range; `is_whole` chooses the words. */
void kd_checker_number(kd_checker *c,
                       const char *path,
                       double found,
                       const kd_range *range,
                       bool is_whole);

/*
 * Every field of a filled message (reflect.h) by its facts: required ones are there, numbers (real ones
 * as their nearest f32 too), lengths and counts within range, texts UTF-8, paths absolute; enums have a known value, since bytes from a
 * client may say otherwise.
 */
void kd_checker_message(kd_checker *c, const ProtobufCMessage *message);

/*
 * Lists that are longer than they may be, and nothing else, of a message that need not be filled. For what
 * a peer sent, before anything is done for each element; no walk here enters such a list.
 */
void kd_checker_lengths(kd_checker *c, const ProtobufCMessage *message);

/*
 * KD_OK without mistakes. Otherwise KD_ERR_INVALID with the first one as the fault's text, and
 * `mistakes` (NULL: not wanted) gets all lines. Releases the checker.
 */
KD_MUST_USE kd_status kd_checker_end(kd_checker *c, kd_text *mistakes);

#endif
