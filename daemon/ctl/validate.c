/*
 * validate.c - is a job file right, and what will it need? The second is told by distill-model, which runs as a
 * child: neither the daemon nor its client knows models.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/json_print.h"
#include "base/log.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"
#include "job/job.h"

#define PLANNER "distill-model"

extern char **environ;

/* ---- the child ---- */

/* Next to this program, unless DISTILLD_MODEL names another; 0, or errno where nobody tells. */
static int find_planner(char *path, size_t size_bytes)
{
    const char *named = getenv("DISTILLD_MODEL");
    char self[PATH_MAX];
    (void)snprintf(path, size_bytes, "%s", named != NULL ? named : PLANNER);
    if (named != NULL) {
        return 0;
    }
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) {
        return n < 0 ? errno : ENOENT;
    }
    self[n] = '\0';
    const char *slash = strrchr(self, '/');
    if (slash == NULL) {
        return ENOENT;
    }
    (void)snprintf(path, size_bytes, "%.*s" PLANNER, (int)(slash + 1 - self), self);
    return 0;
}

/* NULL without memory. Only the array is the caller's. */
static char **planner_arguments(const ctl_options *options)
{
    char **words = calloc(2 * options->n_sets + 6, sizeof *words);
    size_t n = 0;
    if (words == NULL) {
        return NULL;
    }
    words[n++] = (char *)PLANNER; /* posix_spawn writes to none of them */
    words[n++] = (char *)"plan";
    if (options->json) {
        words[n++] = (char *)"--json";
    }
    for (size_t i = 0; i < options->n_sets; i++) {
        words[n++] = (char *)"--set";
        words[n++] = (char *)options->sets[i];
    }
    words[n++] = (char *)"--";
    words[n++] = (char *)options->argument;
    return words;
}

/* Starts the child with its standard output in a pipe; 0, or errno. */
static int start(const char *path, char **arguments, pid_t *pid_out, int *read_end_out)
{
    posix_spawn_file_actions_t actions;
    int ends[2];
    if (pipe(ends) != 0) {
        return errno;
    }
    int error = posix_spawn_file_actions_init(&actions);
    if (error == 0) {
        (void)posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
        (void)posix_spawn_file_actions_addclose(&actions, ends[0]);
        (void)posix_spawn_file_actions_addclose(&actions, ends[1]);
        error = posix_spawn(pid_out, path, &actions, NULL, arguments, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    (void)close(ends[1]);
    if (error != 0) {
        (void)close(ends[0]);
        return error;
    }
    *read_end_out = ends[0];
    return 0;
}

/* All that the child prints, then its wait status. */
static int read_all(pid_t pid, int read_end, kd_text *out)
{
    char piece[4096];
    int status = -1;
    for (;;) {
        const ssize_t n = read(read_end, piece, sizeof piece);
        if (n > 0) {
            kd_text_add_bytes(out, piece, (size_t)n);
        } else if (n == 0 || errno != EINTR) {
            break;
        }
    }
    (void)close(read_end);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

/* What the job will need, as the child tells it; its faults are on standard error. */
static ctl_exit ask_planner(const ctl_options *options, kd_text *out)
{
    char path[2 * PATH_MAX];
    pid_t pid = 0;
    int read_end = -1;
    char **arguments = planner_arguments(options);
    int error = find_planner(path, sizeof path);
    if (error == 0) {
        error = arguments == NULL ? ENOMEM : start(path, arguments, &pid, &read_end);
    }
    free(arguments);
    if (error != 0) {
        (void)fprintf(stderr,
                      "distillctl: --explain: cannot run %s: %s; expected it beside distillctl, or "
                      "where DISTILLD_MODEL says\n",
                      path, strerror(error));
        return CTL_INTERNAL;
    }
    const int status = read_all(pid, read_end, out);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && !out->failed) {
        return CTL_OK;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == EX_DATAERR) {
        return CTL_INVALID;
    }
    (void)fprintf(stderr, "distillctl: --explain: %s did not tell what the job will need\n", path);
    return CTL_INTERNAL;
}

/* ---- the answer ---- */

static void print_json(const char *mistakes, const char *plan)
{
    kd_text out = {0};
    kd_json_printer p = {.text = &out};
    kd_json_begin(&p, '{');
    kd_json_key(&p, "valid");
    kd_json_bool(&p, *mistakes == '\0');
    kd_json_key(&p, "mistakes");
    kd_json_begin(&p, '[');
    for (const char *line = mistakes; *line;) {
        const size_t length = strcspn(line, "\n");
        kd_json_bytes(&p, line, length);
        line += length + (line[length] == '\n');
    }
    kd_json_end(&p, ']');
    if (plan != NULL) {
        kd_json_key(&p, "plan");
        kd_json_raw(&p, plan);
    }
    kd_json_end(&p, '}');
    puts(out.failed ? "null" : out.data);
    kd_text_release(&out);
}

static void print_valid(const ctl_options *options, const Kd__Job *job, const kd_text *plan)
{
    if (options->json) {
        if (plan->size > 0) {
            plan->data[strcspn(plan->data, "\n")] = '\0';
        }
        print_json("", plan->size > 0 ? plan->data : NULL);
        return;
    }
    printf("%s: valid; takes %" PRIu32 " ranks on %" PRIu64 " slots\n", options->argument,
           kd_job_ranks(job), kd_job_slots(job));
    if (plan->size > 0) {
        printf("\n%s", plan->data);
    }
}

static void tell_mistakes(const ctl_options *options, const kd_text *mistakes)
{
    if (options->json) {
        print_json(mistakes->size > 0 ? mistakes->data : "", NULL);
    } else {
        (void)fputs(mistakes->size > 0 ? mistakes->data : "out of memory\n", stderr);
    }
}

ctl_exit ctl_validate(const ctl_options *options)
{
    Kd__Job *job = NULL;
    kd_text mistakes = {0}, plan = {0};
    const kd_status st =
        kd_job_read_checked(options->argument, options->sets, options->n_sets, &job, &mistakes);
    ctl_exit result = ctl_exit_of_job(st);
    if (st) {
        tell_mistakes(options, &mistakes);
    } else {
        if (options->explain) {
            result = ask_planner(options, &plan);
        }
        if (result == CTL_OK) {
            print_valid(options, job, &plan);
        } else if (options->json) {
            print_json("", "null"); /* the job is right; why there is no plan is told already */
        }
        kd__job__free_unpacked(job, NULL);
    }
    kd_text_release(&plan);
    kd_text_release(&mistakes);
    return result;
}
