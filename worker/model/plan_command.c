/* plan_command.c - distill-model plan: what a job will need, before it is submitted. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/option.h"
#include "job/job.h"
#include "message/reflect.h"
#include "worker/model/command.h"
#include "worker/model/plan.h"

static const char help[] =
    "usage: distill-model plan JOB.yaml [--set PATH=VALUE]... [--json] [--log-level LEVEL]\n"
    "\n"
    "tells what a run of the job will need, on a machine as this one: the memory of a rank of "
    "each\n"
    "role by part, what goes from teachers to students, the work by role, data and files. Nothing "
    "is\n"
    "trained and no text is read. Relative paths of the file are below its folder, those of --set\n"
    "below the current one.\n";

typedef struct arguments {
    const char *path;
    const char **sets; /* owned: room for each word of the command */
    size_t n_sets;
    bool json, help;
} arguments;

static kd_status take(int letter, void *user)
{
    arguments *a = user;
    switch (letter) {
    case 's':
        a->sets[a->n_sets++] = optarg;
        return KD_OK;
    case 'l':
        return kd_option_log_level(optarg);
    case 'j':
        a->json = true;
        return KD_OK;
    default: /* 'h' */
        a->help = true;
        return KD_OK;
    }
}

static kd_status parse(int argc, char **argv, arguments *a)
{
    static const struct option known[] = {
        {"set", required_argument, NULL, 's'},
        {"log-level", required_argument, NULL, 'l'},
        {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {0},
    };
    a->sets = calloc((size_t)argc, sizeof *a->sets);
    if (a->sets == NULL) {
        return kd_fail(KD_ERR_NOMEM, "plan: no memory");
    }
    const kd_status st = command_options(argc, argv, ":h", known, take, a);
    return st || a->help ? st : command_word(argc, argv, "a job file", &a->path);
}

/* The mistakes of a job are told as distillctl validate tells them. */
static kd_status read_job(const arguments *a, Kd__Job **job_out)
{
    kd_text mistakes = {0};
    Kd__Job *job = NULL;
    const int quiet = kd_fault_quiet(1);
    const kd_status st = kd_job_read_checked(a->path, a->sets, a->n_sets, &job, &mistakes);
    (void)kd_fault_quiet(quiet);
    if (st) {
        (void)fputs(mistakes.size > 0 ? mistakes.data : "out of memory\n", stderr);
    } else {
        *job_out = job;
    }
    kd_text_release(&mistakes);
    return st;
}

static kd_status tell(Kd__Job *job, bool json)
{
    plan p;
    kd_text text = {0};
    kd_status st = plan_make(job, &p);
    if (st) {
        return st;
    }
    if (json) {
        plan_print_json(&p, &text);
        kd_text_add(&text, "\n");
    } else {
        plan_print_table(&p, &text);
    }
    st = text.failed ? kd_fail(KD_ERR_NOMEM, "no memory for a plan") : KD_OK;
    if (!st) {
        (void)fputs(text.data, stdout);
    }
    kd_text_release(&text);
    plan_release(&p);
    return st;
}

static int run(const arguments *a)
{
    Kd__Job *job;
    if (a->help) {
        return command_help(help);
    }
    kd_status st = read_job(a, &job);
    if (!st) {
        st = tell(job, a->json);
        kd_message_destroy(&job->base);
    }
    return command_exit_code(st);
}

int command_plan(int argc, char **argv)
{
    arguments a = {0};
    const kd_status st = parse(argc, argv, &a);
    const int code = st == KD_OK          ? run(&a)
                     : st == KD_ERR_NOMEM ? command_exit_code(st)
                                          : EXIT_USAGE;
    free(a.sets);
    return code;
}
