#include "worker/options.h"

#include <string.h>

#include "base/log.h"

/* An option is `--name VALUE` or `--name=VALUE`. Returns false if argv[*at] is another one. */
static bool
take_value(int argc, char **argv, int *at, const char *name, const char **value_out, kd_status *st)
{
    const char *word = argv[*at];
    const size_t n = strlen(name);
    if (strncmp(word, name, n) != 0 || (word[n] != '\0' && word[n] != '=')) {
        return false;
    }
    if (word[n] == '=') {
        *value_out = word + n + 1;
    } else if (*at + 1 < argc) {
        *value_out = argv[++*at];
    } else {
        *st = kd_fail(KD_ERR_ARG, "%s: expected a value behind it; see --help", name);
    }
    return true;
}

static kd_status take(int argc, char **argv, int *at, options *o)
{
    const char *word = argv[*at];
    const char *set = NULL;
    kd_status st = KD_OK;
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        o->help = true;
        return KD_OK;
    }
    if (take_value(argc, argv, at, "--job", &o->job_path, &st) ||
        take_value(argc, argv, at, "--attempt-file", &o->attempt_path, &st)) {
        return st;
    }
    if (!take_value(argc, argv, at, "--set", &set, &st)) {
        return kd_fail(KD_ERR_ARG, "found %s, expected --job, --attempt-file or --set; see --help",
                       word);
    }
    if (!st && o->n_sets == OPTIONS_SETS_MAX) {
        st = kd_fail(KD_ERR_ARG, "--set: expected at most %d of them", OPTIONS_SETS_MAX);
    }
    if (!st) {
        o->sets[o->n_sets++] = set;
    }
    return st;
}

kd_status options_parse(int argc, char **argv, options *options_out)
{
    options o = {0};
    for (int i = 1; i < argc; i++) {
        const kd_status st = take(argc, argv, &i, &o);
        if (st) {
            return st;
        }
    }
    if (o.job_path == NULL && !o.help) {
        return kd_fail(KD_ERR_ARG, "--job: expected a job file; see --help");
    }
    *options_out = o;
    return KD_OK;
}

const char *options_help(void)
{
    return "usage: mpirun -n RANKS distill-worker --job FILE [--set PATH=VALUE]... [--attempt-file "
           "FILE]\n"
           "\n"
           "One rank of a distillation job. RANKS is the job's student_ranks + teacher_ranks; "
           "ranks\n"
           "find their role by their number. distilld starts it this way; by hand it runs without\n"
           "a daemon.\n"
           "\n"
           "  --job FILE           the job, in YAML; relative paths are below FILE's folder\n"
           "  --set PATH=VALUE     changes a field of it, e.g. training.steps=100\n"
           "  --attempt-file FILE  where the daemon listens, and the secret (written by distilld)\n"
           "\n"
           "SIGTERM: writes a checkpoint and ends. The same command goes on from the newest\n"
           "checkpoint in the job's output folder.\n"
           "\n"
           "exit codes:\n"
           "   0  done: all steps made, OUTPUT/final written\n"
           "   3  stopped as ordered, after a checkpoint\n"
           "  64  bad command line\n"
           "  65  bad input: the job, its data or a checkpoint; the same again would fail the same "
           "way\n"
           "  70  internal error, or out of memory\n"
           "  74  input or output failed\n"
           "  77  the daemon refused this rank\n";
}

worker_exit options_exit_code(kd_status st)
{
    switch (st) {
    case KD_OK:
        return WORKER_EXIT_DONE;
    case KD_ERR_ARG:
    case KD_ERR_PROTO:
    case KD_ERR_INVALID:
    case KD_ERR_NOT_FOUND:
        return WORKER_EXIT_INPUT;
    case KD_ERR_NOMEM:
    case KD_ERR_STATE:
    case KD_STATUS_COUNT:
        return WORKER_EXIT_INTERNAL;
    case KD_ERR_IO:
        return WORKER_EXIT_IO;
    }
    return WORKER_EXIT_INTERNAL;
}

bool options_is_permanent(kd_status st)
{
    return options_exit_code(st) == WORKER_EXIT_INPUT;
}
