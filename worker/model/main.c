/*
 * main.c - distill-model: makes, shows and tries model folders on this machine, without daemon or MPI.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "worker/model/command.h"

static const char help[] =
    "usage: distill-model COMMAND ...; distill-model COMMAND --help says more\n"
    "\n"
    "inspect   prints the shape and size of a model folder, and whether its weights are sound\n"
    "evaluate  prints loss, perplexity and next-token accuracy of a model on text\n"
    "create    makes a model folder with random weights from a shape\n"
    "plan      tells what a run of a job will need: memory, streams, work, files\n"
    "\n"
    "exit codes: 0 done, 64 bad command line, 65 bad input, 70 internal, 74 input or output "
    "failed\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"inspect", command_inspect},
    {"evaluate", command_evaluate},
    {"create", command_create},
    {"plan", command_plan},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int fail_unknown(const char *word)
{
    const char *names[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) {
        names[i] = commands[i].name;
    }
    const char *nearest = kd_text_nearest(word, names, N_COMMANDS);
    (void)kd_fail(KD_ERR_ARG, "found \"%s\", expected a command%s%s%s; see --help", word,
                  nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
                  nearest != NULL ? "\"?" : "");
    return EXIT_USAGE;
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        (void)kd_fail(KD_ERR_ARG,
                      "no command: expected inspect, evaluate, create or plan; see --help");
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        return command_help(help);
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return fail_unknown(argv[1]);
}

int main(int argc, char **argv)
{
    kd_log_set_who("distill-model");
    const int code = run(argc, argv);
    return code == EXIT_DONE && fflush(stdout) != 0 ? EXIT_IO : code;
}
