/* options.h - distill-worker's command line. */
#ifndef KD_WORKER_OPTIONS_H
#define KD_WORKER_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <sysexits.h>

#include "base/status.h"

/* How a rank ends; documented in --help. */
typedef enum worker_exit {
    WORKER_EXIT_DONE = 0,
    WORKER_EXIT_STOPPED = 3,
    WORKER_EXIT_USAGE = EX_USAGE,
    WORKER_EXIT_INPUT = EX_DATAERR,
    WORKER_EXIT_INTERNAL = EX_SOFTWARE,
    WORKER_EXIT_IO = EX_IOERR,
    WORKER_EXIT_REFUSED = EX_NOPERM,
} worker_exit;

#define OPTIONS_SETS_MAX 64

typedef struct options {
    bool help;
    const char *job_path;
    const char *attempt_path; /* NULL: no daemon */
    const char *sets[OPTIONS_SETS_MAX];
    size_t n_sets;
} options;

/* Views into argv, which is put into order; sets the log's level. KD_ERR_ARG says what is wrong. */
KD_MUST_USE kd_status options_parse(int argc, char **argv, options *options_out);

/* The text of --help. */
const char *options_help(void);

/* The exit code for a fault, and whether the same again would fail the same way. */
worker_exit options_exit_code(kd_status st);
bool options_is_permanent(kd_status st);

#endif
