/*
 * runner - runs the tests that are linked with it, and goes on after one that crashes, hangs or spoils the
 * device.
 *
 *     gpu_ops [--filter GLOB]... [--json FILE] [--limit SECONDS] [--in-process] [--list]
 *
 * GLOB is of SUITE/NAME; several are alternatives. Tests run in a child, one after another, since making ready
 * a device takes longer than most of them; a test that fails ends the child, and the next begins in a new one:
 * the parent never touches the device. --in-process has no child, for tools that look into the process.
 * --limit is that of one test. Exits with 1 if one failed, and with 2 if none ran.
 */
#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/option.h"
#include "tests/gpu/criterion/criterion.h"

enum { TESTS_MAX = 1024, FILTERS_MAX = 16 };

/* What a child tells of a test that came to its end. */
typedef struct result {
    int number; /* among those chosen */
    bool passed;
    double seconds;
} result;

static gpu_test *tests; /* all that are linked, in any order */
static const gpu_test *chosen[TESTS_MAX];
static result results[TESTS_MAX];
static int n_chosen;
static const char *filters[FILTERS_MAX];
static int n_filters;
static bool has_failed; /* the test that runs in this process */

void gpu_test_add(gpu_test *test)
{
    test->next = tests;
    tests = test;
}

void gpu_check(bool holds,
               bool ends,
               const char *file,
               int line,
               const char *text,
               const char *format,
               ...)
{
    if (holds) {
        return;
    }
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "%s:%d: %s:", file, line, text);
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, "\n");
    va_end(args);
    has_failed = true;
    if (ends) {
        (void)fflush(NULL);
        _exit(1);
    }
}

/* ---- choosing ---- */

static bool is_asked_for(const gpu_test *test)
{
    char name[256];
    (void)snprintf(name, sizeof name, "%s/%s", test->suite, test->name);
    for (int i = 0; i < n_filters; i++) {
        if (fnmatch(filters[i], name, 0) == 0) {
            return true;
        }
    }
    return n_filters == 0;
}

static int by_name(const void *a, const void *b)
{
    const gpu_test *x = *(const gpu_test *const *)a, *y = *(const gpu_test *const *)b;
    const int suites = strcmp(x->suite, y->suite);
    return suites != 0 ? suites : strcmp(x->name, y->name);
}

static void choose(void)
{
    for (const gpu_test *test = tests; test != NULL; test = test->next) {
        if (is_asked_for(test)) {
            KD_CHECK(n_chosen < TESTS_MAX);
            chosen[n_chosen++] = test;
        }
    }
    qsort(chosen, (size_t)n_chosen, sizeof *chosen, by_name);
}

/* ---- running ---- */

static result run_here(int number)
{
    const double start = kd_clock_monotonic_s();
    has_failed = false;
    chosen[number]->run();
    return (result){number, !has_failed, kd_clock_monotonic_s() - start};
}

static void tell(const result *r)
{
    results[r->number] = *r;
    printf("%-6s %6.2f s  %s/%s\n", r->passed ? "ok" : "FAILED", r->seconds,
           chosen[r->number]->suite, chosen[r->number]->name);
    (void)fflush(stdout);
}

static void run_in_child(int first, int pipe_in)
{
    bool passed = true;
    for (int i = first; i < n_chosen && passed; i++) {
        const result r = run_here(i);
        passed = r.passed;
        (void)fflush(NULL);
        KD_CHECK(write(pipe_in, &r, sizeof r) == sizeof r);
    }
    _exit(passed ? 0 : 1);
}

/* A result; false: the child is at its end, or was brought to it. */
static bool hear(int pipe_out, pid_t child, int limit_s, result *r_out)
{
    struct pollfd ready = {.fd = pipe_out, .events = POLLIN};
    const int n = poll(&ready, 1, limit_s * 1000);
    if (n == 0) {
        (void)fprintf(stderr, "longer than %d s\n", limit_s);
        (void)kill(child, SIGKILL);
    }
    return n == 1 && read(pipe_out, r_out, sizeof *r_out) == sizeof *r_out;
}

/* Runs tests from `first` on in one child; returns the first that it left. */
static int run_some(int first, int limit_s)
{
    int ends[2];
    result r;
    int next = first;
    KD_CHECK(pipe(ends) == 0);
    (void)fflush(NULL);
    const pid_t child = fork();
    KD_CHECK(child >= 0);
    if (child == 0) {
        (void)close(ends[0]);
        run_in_child(first, ends[1]);
    }
    (void)close(ends[1]);
    double start = kd_clock_monotonic_s();
    while (next < n_chosen && hear(ends[0], child, limit_s, &r)) {
        tell(&r);
        next = r.number + 1;
        start = kd_clock_monotonic_s();
        if (!r.passed) {
            break;
        }
    }
    int status = 0;
    (void)close(ends[0]);
    KD_CHECK(waitpid(child, &status, 0) == child);
    const bool unheard = next == first || results[next - 1].passed;
    if (next < n_chosen && unheard) { /* it ended within a test */
        if (WIFSIGNALED(status)) {
            (void)fprintf(stderr, "ended by signal %d\n", WTERMSIG(status));
        }
        r = (result){next++, false, kd_clock_monotonic_s() - start};
        tell(&r);
    }
    return next;
}

static void run_all(bool in_process, int limit_s)
{
    for (int i = 0; i < n_chosen;) {
        if (in_process) {
            const result r = run_here(i++);
            tell(&r);
        } else {
            i = run_some(i, limit_s);
        }
    }
}

/* ---- telling ---- */

static int count_failures(void)
{
    int n = 0;
    for (int i = 0; i < n_chosen; i++) {
        n += !results[i].passed;
    }
    return n;
}

/* Names are C's, so nothing needs escaping. */
static void write_json(const char *path)
{
    FILE *file = fopen(path, "w");
    if (file == NULL) {
        (void)fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    for (int i = 0; i < n_chosen; i++) {
        (void)fprintf(file, "%s{\"name\": \"%s/%s\", \"passed\": %s, \"seconds\": %.3f}",
                      i == 0 ? "[" : ",\n ", chosen[i]->suite, chosen[i]->name,
                      results[i].passed ? "true" : "false", results[i].seconds);
    }
    (void)fprintf(file, "]\n");
    KD_CHECK(fclose(file) == 0);
}

static const struct option options[] = {
    {"filter", required_argument, NULL, 'f'}, {"json", required_argument, NULL, 'j'},
    {"limit", required_argument, NULL, 'l'},  {"in-process", no_argument, NULL, 'i'},
    {"list", no_argument, NULL, 'n'},         {NULL, 0, NULL, 0}};

int main(int argc, char **argv)
{
    const char *json = NULL;
    bool in_process = false, lists = false;
    uint32_t limit_s = 60;
    int letter = 0;
    kd_status st = KD_OK;

    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":", options, &letter)) && letter != KD_OPTION_END) {
        in_process |= letter == 'i';
        lists |= letter == 'n';
        json = letter == 'j' ? optarg : json;
        if (letter == 'f') {
            KD_CHECK(n_filters < FILTERS_MAX);
            filters[n_filters++] = optarg;
        } else if (letter == 'l') {
            st = kd_option_number("--limit", optarg, 1, 3600, &limit_s);
        }
        if (st) {
            break;
        }
    }
    if (st) {
        return 2;
    }
    choose();
    for (int i = 0; lists && i < n_chosen; i++) {
        printf("%s/%s\n", chosen[i]->suite, chosen[i]->name);
    }
    if (lists || n_chosen == 0) {
        return lists ? 0 : 2;
    }
    run_all(in_process, (int)limit_s);
    if (json != NULL) {
        write_json(json);
    }
    const int n_failures = count_failures();
    printf("%d of %d tests passed\n", n_chosen - n_failures, n_chosen);
    return n_failures > 0;
}
