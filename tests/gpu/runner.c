/*
 * runner - runs the tests that are linked with it, and goes on after one that crashes, hangs or spoils the
 * device.
 *
 *     gpu_ops [--filter GLOB]... [--limit SECONDS] [--jobs N] [--in-process] [--list]
 *
 * GLOB is of SUITE/NAME; several are alternatives. Tests run in a child, one after another, since making ready
 * a device takes longer than most of them; a test that fails ends the child, and the next begins in a new one:
 * the parent never touches the device. --jobs: each test has a child of its own, for those that leave something
 * behind in theirs, and N run at a time. --in-process has no child, for tools that look into the process.
 * --limit is that of one test. A line of stdout for each as it ends: ok or FAILED, seconds, SUITE/NAME. Exits with
 * 1 if one failed, and with 77 if none ran.
 */
#include <errno.h>
#include <fnmatch.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/option.h"
#include "tests/gpu/criterion/criterion.h"

enum { TESTS_MAX = 1024, FILTERS_MAX = 16, NONE_RAN = 77 };

/* What a child tells of a test that came to its end. */
typedef struct result {
    int number; /* among those chosen */
    bool passed;
    double seconds;
} result;

/* What all processes but the tests' own share. */
typedef struct board {
    atomic_int next; /* of those chosen, which nobody has taken yet */
    result results[TESTS_MAX];
} board;

static gpu_test *tests;   /* all that are linked, in any order */
static gpu_suite *suites; /* likewise                          */
static const gpu_test *chosen[TESTS_MAX];
static board *shared;
static int n_chosen;
static const char *filters[FILTERS_MAX];
static int n_filters;
static bool has_failed; /* the test that runs in this process */

void gpu_test_add(gpu_test *test)
{
    test->next = tests;
    tests = test;
}

void gpu_suite_add(gpu_suite *suite)
{
    suite->next = suites;
    suites = suite;
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
    const int order = strcmp(x->suite, y->suite);
    return order != 0 ? order : strcmp(x->name, y->name);
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

static gpu_fixture fixture_of(const char *suite)
{
    for (const gpu_suite *s = suites; s != NULL; s = s->next) {
        if (strcmp(s->name, suite) == 0) {
            return s->fixture;
        }
    }
    return (gpu_fixture){NULL, NULL};
}

static void call(void (*function)(void))
{
    if (function != NULL) {
        function();
    }
}

static result run_here(int number)
{
    const gpu_test *test = chosen[number];
    const gpu_fixture around = fixture_of(test->suite);
    const double start = kd_clock_monotonic_s();
    has_failed = false;
    call(around.init);
    call(test->fixture.init);
    test->run();
    call(test->fixture.fini);
    call(around.fini);
    return (result){number, !has_failed, kd_clock_monotonic_s() - start};
}

static void tell(const result *r)
{
    shared->results[r->number] = *r;
    printf("%-6s %6.2f s  %s/%s\n", r->passed ? "ok" : "FAILED", r->seconds,
           chosen[r->number]->suite, chosen[r->number]->name);
    (void)fflush(stdout);
}

static void run_in_child(int first, int end, int pipe_in)
{
    bool passed = true;
    for (int i = first; i < end && passed; i++) {
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

/* Runs tests [first, end) in one child; returns the first that it left. */
static int run_some(int first, int end, int limit_s)
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
        run_in_child(first, end, ends[1]);
    }
    (void)close(ends[1]);
    double start = kd_clock_monotonic_s();
    while (next < end && hear(ends[0], child, limit_s, &r)) {
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
    const bool unheard = next == first || shared->results[next - 1].passed;
    if (next < end && unheard) { /* it ended within a test */
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
            i = run_some(i, n_chosen, limit_s);
        }
    }
}

/* Each in a child of its own, n_jobs at a time. */
static void run_apart(int n_jobs, int limit_s)
{
    (void)fflush(NULL);
    for (int job = 0; job < n_jobs; job++) {
        const pid_t child = fork();
        KD_CHECK(child >= 0);
        if (child == 0) {
            for (int i; (i = atomic_fetch_add(&shared->next, 1)) < n_chosen;) {
                (void)run_some(i, i + 1, limit_s);
            }
            _exit(0);
        }
    }
    while (wait(NULL) > 0) {
    }
}

/* ---- telling ---- */

static int count_failures(void)
{
    int n = 0;
    for (int i = 0; i < n_chosen; i++) {
        n += !shared->results[i].passed;
    }
    return n;
}

static const struct option options[] = {
    {"filter", required_argument, NULL, 'f'}, {"limit", required_argument, NULL, 'l'},
    {"jobs", required_argument, NULL, 'j'},   {"in-process", no_argument, NULL, 'i'},
    {"list", no_argument, NULL, 'n'},         {NULL, 0, NULL, 0}};

int main(int argc, char **argv)
{
    bool in_process = false, lists = false;
    uint32_t limit_s = 60, n_jobs = 0;
    int letter = 0;
    kd_status st = KD_OK;

    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, ":", options, &letter)) && letter != KD_OPTION_END) {
        in_process |= letter == 'i';
        lists |= letter == 'n';
        if (letter == 'f') {
            KD_CHECK(n_filters < FILTERS_MAX);
            filters[n_filters++] = optarg;
        } else if (letter == 'l') {
            st = kd_option_number("--limit", optarg, 1, 3600, &limit_s);
        } else if (letter == 'j') {
            st = kd_option_number("--jobs", optarg, 1, 64, &n_jobs);
        }
        if (st) {
            break;
        }
    }
    if (st) {
        return 64;
    }
    choose();
    for (int i = 0; lists && i < n_chosen; i++) {
        printf("%s/%s\n", chosen[i]->suite, chosen[i]->name);
    }
    if (lists || n_chosen == 0) {
        return lists ? 0 : NONE_RAN;
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    KD_CHECK(shared != MAP_FAILED);
    if (n_jobs > 0) {
        run_apart((int)n_jobs, (int)limit_s);
    } else {
        run_all(in_process, (int)limit_s);
    }
    const int n_failures = count_failures();
    printf("%d of %d tests passed\n", n_chosen - n_failures, n_chosen);
    return n_failures > 0;
}
