/*
 * temporary.h - a folder for one test, and the test works in it.
 *
 * For a fixture of Criterion, which runs each test in a process of its own: .init = temporary_enter,
 * .fini = temporary_leave. Of libc only, so that any test may link it. A fault in any of these ends
 * the program with a message; Criterion counts that as a failure, in a fixture too.
 */
#ifndef KD_TESTS_TEMPORARY_H
#define KD_TESTS_TEMPORARY_H

#include <stdbool.h>

/* Makes a new folder below /tmp, and makes it the working directory. */
void temporary_enter(void);
/* Back to the root; removes the folder and all below it. */
void temporary_leave(void);

/* The absolute path of the folder. */
const char *temporary_folder(void);
/* An absolute path below the folder; valid until the next call but three. */
const char *temporary_path(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether two files hold the same bytes; one that cannot be read ends the program. */
bool temporary_same(const char *path, const char *other);

/* A file with that text, and nothing else, in it. */
void temporary_write(const char *path, const char *text);

#endif
