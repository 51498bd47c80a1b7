/*
 * options.c - one table of options and one of commands; which options a command takes is a string of
 * letters in its row, so that help and parser cannot disagree.
 */
#include "daemon/ctl/options.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/option.h"
#include "base/text.h"

#define DEFAULT_SERVER   "unix:/run/distilld/distilld.sock"
#define REPLY_TIMEOUT_MS 30000

static const struct option long_options[] = {
    {"server", required_argument, NULL, 'S'},
    {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {"set", required_argument, NULL, 's'},
    {"after", required_argument, NULL, 'a'},
    {"token", required_argument, NULL, 't'},
    {"watch", no_argument, NULL, 'w'},
    {"csv", no_argument, NULL, 'c'},
    {"follow", no_argument, NULL, 'f'},
    {"man", no_argument, NULL, 'm'},
    {"explain", no_argument, NULL, 'e'},
    {NULL, 0, NULL, 0},
};

static const char global_options[] = "SjhV";

static void print_help(const ctl_command *commands, size_t n_commands)
{
    puts("distillctl - talks to distilld, the distillation service\n\n"
         "usage: distillctl [--server ADDRESS] COMMAND [ARGUMENT] [OPTIONS]\n\ncommands:");
    for (size_t i = 0; i < n_commands; i++) {
        const char *argument = commands[i].argument ? commands[i].argument : "";
        printf("  %-8s %-6s %s\n", commands[i].name, argument, commands[i].summary);
    }
    puts("\n"
         "options of every command:\n"
         "  --server ADDRESS  unix:PATH or tcp:HOST:PORT\n"
         "                    [DISTILLD_SERVER, or " DEFAULT_SERVER "]\n"
         "  --json            print JSON: one object, or one a line while watching\n"
         "  --help            this text; after a command, that command's options\n"
         "  --version         the version of this program\n"
         "\n"
         "a first job:\n"
         "  distillctl validate job.yaml\n"
         "  id=$(distillctl submit job.yaml --set training.steps=200)\n"
         "  distillctl watch $id\n"
         "  distillctl submit student.yaml --after $id --set teachers.0.checkpoint=out/final\n"
         "\n"
         "exit codes:\n"
         "  0  done; for watch and submit --watch: the job succeeded\n"
         "  1  watch and submit --watch: the job failed or was cancelled\n"
         "  2  the command line is wrong\n"
         "  3  the job file, or what it asks for, is wrong\n"
         "  4  the daemon cannot be reached, or the connection broke\n"
         "  5  no such job\n"
         "  6  not possible in the job's state, or refused\n"
         "  7  a fault of the daemon or of this program; see the daemon's log");
}

static void print_command_help(const ctl_command *command)
{
    static const struct {
        char letter;
        const char *text;
    } texts[] = {
        {'s', "  --set PATH=VALUE  change a field of the job, e.g. training.steps=200; may be "
              "repeated.\n"
              "                    Relative paths here are below the current folder, those in FILE "
              "below\n"
              "                    FILE's"},
        {'a', "  --after JOB       start only when that job has succeeded; may be repeated"},
        {'t', "  --token TEXT      submit once: the same token again gives the same job"},
        {'w', "  --watch           stay and show progress, as watch does"},
        {'c', "  --csv             comma-separated values with a header line"},
        {'e',
         "  --explain         tell what the job will need, by memory, streams, work and files"},
        {'m', "  --man             print the manual page distill-job(5)"},
        {'f', "  -f, --follow      go on as the log grows, until the job ends"},
    };

    printf("usage: distillctl %s%s%s [OPTIONS]\n\n%s\n", command->name,
           command->argument ? " " : "", command->argument ? command->argument : "",
           command->summary);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strchr(command->options, texts[i].letter)) {
            puts(texts[i].text);
        }
    }
    puts("  --server ADDRESS, --json: see distillctl --help");
}

static const ctl_command *
find_command(const char *name, const ctl_command *commands, size_t n_commands)
{
    const char *names[32];
    for (size_t i = 0; i < n_commands; i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
        names[i] = commands[i].name;
    }
    const char *nearest = kd_text_nearest(name, names, n_commands);
    (void)fprintf(stderr, "distillctl: %s: no such command%s%s%s; see distillctl --help\n", name,
                  nearest ? "; did you mean \"" : "", nearest ? nearest : "", nearest ? "\"?" : "");
    return NULL;
}

static void take_option(int letter, ctl_options *o, bool *help, bool *version)
{
    switch (letter) {
    case 'S':
        o->server = optarg;
        break;
    case 'j':
        o->json = true;
        break;
    case 'h':
        *help = true;
        break;
    case 'V':
        *version = true;
        break;
    case 's':
        o->sets[o->n_sets++] = optarg;
        break;
    case 'a':
        o->after[o->n_after++] = optarg;
        break;
    case 't':
        o->token = optarg;
        break;
    case 'w':
        o->watch = true;
        break;
    case 'c':
        o->csv = true;
        break;
    case 'm':
        o->man = true;
        break;
    case 'e':
        o->explain = true;
        break;
    default: /* 'f' */
        o->follow = true;
        break;
    }
}

/* Splits what is left after the options into command and argument. */
static bool take_words(int argc, char **argv, const ctl_command *commands, size_t n, ctl_options *o)
{
    if (optind >= argc) {
        (void)fputs("distillctl: no command; see distillctl --help\n", stderr);
        return false;
    }
    o->command = find_command(argv[optind], commands, n);
    if (o->command == NULL) {
        return false;
    }
    const int n_words = argc - optind - 1;
    const int n_expected = o->command->argument ? 1 : 0;
    const bool may_lack = n_expected == 1 && o->command->argument[0] == '[';
    if (n_words != n_expected && !(may_lack && n_words == 0)) {
        (void)fprintf(stderr, "distillctl %s: found %d arguments, expected %s\n", o->command->name,
                      n_words, n_expected ? o->command->argument : "none");
        return false;
    }
    o->argument = n_words > 0 ? argv[optind + 1] : NULL;
    return true;
}

static bool check_allowed(const ctl_options *o, uint32_t seen)
{
    for (const struct option *option = long_options; option->name; option++) {
        const uint32_t bit = 1u << (option - long_options);
        if ((seen & bit) && !strchr(global_options, option->val) &&
            !strchr(o->command->options, option->val)) {
            (void)fprintf(stderr, "distillctl %s: --%s is not an option of this command\n",
                          o->command->name, option->name);
            return false;
        }
    }
    return true;
}

static uint32_t option_bit(int letter)
{
    for (const struct option *option = long_options; option->name; option++) {
        if (option->val == letter) {
            return 1u << (option - long_options);
        }
    }
    return 0;
}

bool ctl_options_parse(int argc,
                       char **argv,
                       const ctl_command *commands,
                       size_t n_commands,
                       ctl_options *options,
                       ctl_exit *exit_out)
{
    bool help = false;
    bool version = false;
    uint32_t seen = 0;
    const char *server = getenv("DISTILLD_SERVER");

    *options = (ctl_options){
        .server = server && *server ? server : DEFAULT_SERVER,
        .reply_timeout_ms = REPLY_TIMEOUT_MS,
    };
    options->sets = calloc((size_t)argc, sizeof *options->sets);
    options->after = calloc((size_t)argc, sizeof *options->after);
    *exit_out = CTL_INTERNAL;
    if (options->sets == NULL || options->after == NULL) {
        return false;
    }
    *exit_out = CTL_USAGE;
    int letter;
    kd_status st;
    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":hf", long_options, &letter)) &&
           letter != KD_OPTION_END) {
        take_option(letter, options, &help, &version);
        seen |= option_bit(letter);
    }
    if (st) {
        (void)fprintf(stderr, "distillctl: %s\n", kd_fault_text());
        return false;
    }
    if (version || (help && optind >= argc)) {
        *exit_out = CTL_OK;
        version ? (void)puts("distillctl " KD_VERSION) : print_help(commands, n_commands);
        return false;
    }
    if (help) {
        const ctl_command *command = find_command(argv[optind], commands, n_commands);
        if (command) {
            *exit_out = CTL_OK;
            print_command_help(command);
        }
        return false;
    }
    return take_words(argc, argv, commands, n_commands, options) && check_allowed(options, seen);
}

void ctl_options_release(ctl_options *options)
{
    free(options->sets);
    free(options->after);
}
