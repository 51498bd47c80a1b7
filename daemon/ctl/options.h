/*
 * options.h - the command line of distillctl, and its exit codes.
 */
#ifndef KD_CTL_OPTIONS_H
#define KD_CTL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

/* Documented in --help; scripts rely on them. */
typedef enum ctl_exit {
    CTL_OK = 0,          /* done; for watch: the job succeeded          */
    CTL_JOB_FAILED = 1,  /* watch: the job failed or was cancelled      */
    CTL_USAGE = 2,       /* the command line is wrong                   */
    CTL_INVALID = 3,     /* the job file, or what it asks for, is wrong */
    CTL_UNREACHABLE = 4, /* no daemon, or the connection broke          */
    CTL_NOT_FOUND = 5,   /* no such job                                 */
    CTL_CONFLICT = 6,    /* not possible in the job's state, or refused */
    CTL_INTERNAL = 7,    /* the daemon's or this program's fault        */
} ctl_exit;

typedef struct ctl_options ctl_options;

typedef struct ctl_command {
    const char *name;
    const char *argument; /* "FILE", "JOB", "[PATH]" if it may be absent, NULL */
    const char *options;  /* those it takes beside the global ones, e.g. "sat" */
    const char *summary;
    ctl_exit (*run)(const ctl_options *options);
} ctl_command;

struct ctl_options {
    const ctl_command *command;
    const char *server;   /* --server, DISTILLD_SERVER, or the default */
    const char *argument; /* the file, job or field named, or NULL     */
    const char *token;
    const char **sets; /* --set, in order */
    size_t n_sets;
    const char **after; /* --after, in order */
    size_t n_after;
    bool json, watch, csv, follow, man, explain;
    bool quiet;                /* not an option: set where failures of a call are expected */
    unsigned reply_timeout_ms; /* not one either: how long a daemon may take for an answer */
};

/*
 * Parses argv against the commands. Returns true if options->command is to be run; otherwise
 * *exit_out is what to leave with (help was printed, or a mistake was told). The arrays are
 * freed by ctl_options_release().
 */
bool ctl_options_parse(int argc,
                       char **argv,
                       const ctl_command *commands,
                       size_t n_commands,
                       ctl_options *options,
                       ctl_exit *exit_out);
void ctl_options_release(ctl_options *options);

#endif
