/*
 * options.c - exit codes are what the daemon goes by: bad input would fail again and ends the job, a fault
 * of the host is tried again.
 */
#include "worker/options.h"

#include "base/log.h"
#include "base/option.h"

static kd_status take(int letter, options *o)
{
    switch (letter) {
    case 'j':
        o->job_path = optarg;
        return KD_OK;
    case 'a':
        o->attempt_path = optarg;
        return KD_OK;
    case 's':
        if (o->n_sets == OPTIONS_SETS_MAX) {
            return kd_fail(KD_ERR_ARG, "--set: expected at most %d of them", OPTIONS_SETS_MAX);
        }
        o->sets[o->n_sets++] = optarg;
        return KD_OK;
    case 'l':
        return kd_option_log_level(optarg);
    default: /* 'h' */
        o->help = true;
        return KD_OK;
    }
}

kd_status options_parse(int argc, char **argv, options *options_out)
{
    static const struct option known[] = {
        {"job", required_argument, NULL, 'j'}, {"attempt-file", required_argument, NULL, 'a'},
        {"set", required_argument, NULL, 's'}, {"log-level", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},      {0},
    };
    options o = {0};
    int letter;
    kd_status st;
    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":h", known, &letter)) && letter != KD_OPTION_END) {
        st = take(letter, &o);
        if (st) {
            return st;
        }
    }
    if (st) {
        return st;
    }
    if (optind < argc) {
        return kd_fail(KD_ERR_ARG, "found \"%s\", expected only options; see --help", argv[optind]);
    }
    if (o.job_path == NULL && !o.help) {
        return kd_fail(KD_ERR_ARG, "--job: expected a job file; see --help");
    }
    *options_out = o;
    return KD_OK;
}

const char *options_help(void)
{
    return "usage: mpirun -n RANKS distill-worker --job FILE [--set PATH=VALUE]...\n"
           "                                      [--attempt-file FILE] [--log-level LEVEL]\n"
           "\n"
           "One rank of a distillation job. RANKS is the sum of student.resources.ranks and\n"
           "every teachers[i].resources.ranks, students first; ranks find their role by their "
           "number.\n"
           "distilld starts it this way; by hand it runs without a daemon.\n"
           "\n"
           "  --job FILE           the job, in YAML; relative paths in it are below FILE's folder\n"
           "  --set PATH=VALUE     changes a field of it, e.g. training.steps=100; relative paths\n"
           "                       are below the current folder\n"
           "  --attempt-file FILE  where the daemon listens, and the secret (written by distilld)\n"
           "  --log-level LEVEL    debug, info, warn or error: the least that is told [info]\n"
           "\n"
           "SIGTERM: writes a checkpoint, if there is something to save, and ends. The same "
           "command\n"
           "goes on from the newest checkpoint in the job's output folder.\n"
           "\n"
           "exit codes:\n"
           "   0  done: all steps made, OUTPUT/final written\n"
           "   3  stopped as ordered, after a checkpoint or before the first step\n"
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
    case KD_ERR_STOPPED:
        return WORKER_EXIT_STOPPED;
    }
    return WORKER_EXIT_INTERNAL;
}

bool options_is_permanent(kd_status st)
{
    return options_exit_code(st) == WORKER_EXIT_INPUT;
}
