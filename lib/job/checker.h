/*
 * checker.h - collects what is wrong with a job. Private to lib/job.
 *
 * A mistake is a line "PATH: found X, expected Y". All are kept, so that a person corrects a file
 * once.
 */
#ifndef KD_JOB_CHECKER_H
#define KD_JOB_CHECKER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

/* Starts as {0}; kd_text_release(&lines) ends it. */
typedef struct kd_checker {
    kd_text lines; /* each ends with a newline */
    size_t n_mistakes;
} kd_checker;

/* `format` gives all behind "PATH: ". */
void kd_checker_add(kd_checker *c, const char *path, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * A whole number within [min, max]. `has` false is a required field left out, and false is
 * returned.
 */
bool kd_checker_number(kd_checker *c,
                       const char *path,
                       bool has,
                       uint64_t found,
                       uint64_t min,
                       uint64_t max);

/* A number of which `ok` says whether it is in range, in words: "above 0". */
void kd_checker_real(kd_checker *c, const char *path, double found, bool ok, const char *expected);

/* A path that is given and absolute. */
void kd_checker_path(kd_checker *c, const char *path, const char *found);

/*
 * What holds for every message: enums have a known value, numbers are finite. Bytes from a client
 * may say otherwise.
 */
void kd_checker_values(kd_checker *c, const ProtobufCMessage *message);

#endif
