/* main.c - distillctl: finds the command, runs it, leaves with its exit code. */
#include <stdlib.h>

#include "base/log.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"

static const ctl_command commands[] = {
    {"submit", "FILE", "satw", "submit a job file; prints the job's number", ctl_submit},
    {"validate", "FILE", "se", "check a job file without a daemon", ctl_validate},
    {"explain", "[PATH]", "m", "tell what a job can say: all fields, or one", ctl_explain},
    {"list", NULL, "", "list all jobs", ctl_list},
    {"show", "JOB", "", "show where one job stands", ctl_show},
    {"watch", "JOB", "", "follow a job's progress to its end", ctl_watch},
    {"logs", "JOB", "f", "print what the job's ranks wrote", ctl_logs},
    {"cancel", "JOB", "", "end a job; a running one saves a checkpoint first", ctl_cancel},
    {"events", "JOB", "", "print a job's history", ctl_events},
    {"metrics", "JOB", "c", "print losses and rates of every step", ctl_metrics},
};

int main(int argc, char **argv)
{
    ctl_options options;
    ctl_exit result;

    kd_log_set_who("distillctl");
    kd_fault_quiet(1); /* faults are printed in the words of a command-line tool */
    if (ctl_options_parse(argc, argv, commands, sizeof commands / sizeof *commands, &options,
                          &result)) {
        result = options.command->run(&options);
    }
    if (!ctl_flush() && result == CTL_OK) {
        result = CTL_INTERNAL;
    }
    ctl_options_release(&options);
    return result;
}
