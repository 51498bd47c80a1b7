#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static int saved_stderr;
static int pipe_end;
static char captured[8192];

static void capture_start(void)
{
    int ends[2];
    (void)fflush(stderr);
    cr_assert(pipe(ends) == 0);
    saved_stderr = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    pipe_end = ends[0];
}

/* What was written to standard error since capture_start(). */
static const char *capture_end(void)
{
    dup2(saved_stderr, STDERR_FILENO); /* the last writing end closes: read sees the end */
    close(saved_stderr);
    size_t size = 0;
    ssize_t n;
    while ((n = read(pipe_end, captured + size, sizeof captured - 1 - size)) > 0) {
        size += (size_t)n;
    }
    captured[size] = '\0';
    close(pipe_end);
    return captured;
}

Test(log, a_line_has_time_level_who_and_text)
{
    int y, mo, d, h, mi, s, ms;
    char rest[64];
    kd_log_set_who("rank 3");
    capture_start();
    kd_log(KD_LOG_WARN, "%d blocks", 7);
    const char *line = capture_end();
    const int n =
        sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %63[^\n]", &y, &mo, &d, &h, &mi, &s, &ms, rest);
    cr_assert(eq(int, n, 8), "%s", line);
    cr_expect(eq(str, rest, "warn rank 3: 7 blocks"));
    cr_expect(line[strlen(line) - 1] == '\n');
}

Test(log, lines_below_the_level_are_dropped)
{
    capture_start();
    kd_log(KD_LOG_DEBUG, "hidden");
    kd_log_set_level(KD_LOG_ERROR);
    kd_log(KD_LOG_WARN, "hidden");
    kd_log(KD_LOG_ERROR, "shown");
    const char *text = capture_end();
    cr_expect(strstr(text, "hidden") == NULL);
    cr_expect(strstr(text, "shown") != NULL);
}

Test(log, text_from_outside_cannot_forge_a_line)
{
    capture_start();
    kd_log(KD_LOG_INFO, "found %s", "x\n2026 error daemon: lie\x1b[2J");
    const char *line = capture_end();
    cr_expect(strchr(line, '\n') == line + strlen(line) - 1);
    cr_expect(strchr(line, '\x1b') == NULL);
}

/* 302 233 is in UTF-8 what ESC [ is; 233 alone is that where a terminal takes bytes. */
Test(log, a_control_of_two_bytes_is_blanked_and_letters_are_not)
{
    capture_start();
    kd_log(KD_LOG_INFO, "a\302\2332Jb\233c\303\233d\177e");
    cr_expect(strstr(capture_end(), ": a  2Jb c\303\233d e\n") != NULL, "%s", captured);
}

Test(log, a_long_text_is_cut_and_still_ends_its_line)
{
    char text[5000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    kd_log_set_who(text);
    capture_start();
    kd_log(KD_LOG_INFO, "%s", text);
    const char *line = capture_end();
    cr_expect(gt(sz, strlen(line), 2000));
    cr_expect(strchr(line, '\n') == line + strlen(line) - 1);
}

Test(log, fail_keeps_the_text_logs_it_and_returns_the_status)
{
    cr_expect(eq(str, (char *)kd_fault_text(), ""));
    capture_start();
    errno = ENOSPC;
    const kd_status st = kd_fail(KD_ERR_IO, "cannot write %s", "a.bin");
    const int errno_after = errno;
    const char *line = capture_end();
    cr_expect(eq(int, st, KD_ERR_IO));
    cr_expect(eq(int, errno_after, ENOSPC));
    cr_expect(eq(str, (char *)kd_fault_text(), "cannot write a.bin"));
    cr_expect(strstr(line, "error") && strstr(line, "cannot write a.bin"));
}

Test(log, a_fault_may_quote_the_fault_before)
{
    kd_fault_quiet(1);
    (void)kd_fail(KD_ERR_IO, "disk full");
    (void)kd_fail(KD_ERR_IO, "checkpoint: %s", kd_fault_text());
    cr_expect(eq(str, (char *)kd_fault_text(), "checkpoint: disk full"));
}

Test(log, quiet_faults_are_kept_and_not_logged)
{
    kd_fault_quiet(1);
    capture_start();
    (void)kd_fail(KD_ERR_ARG, "quiet");
    cr_expect(eq(str, (char *)capture_end(), ""));
    cr_expect(eq(str, (char *)kd_fault_text(), "quiet"));
}

static void *other_thread(void *seen)
{
    kd_fault_quiet(1);
    *(int *)seen = kd_fault_text()[0] == '\0';
    (void)kd_fail(KD_ERR_ARG, "theirs");
    return NULL;
}

Test(log, each_thread_has_its_own_fault)
{
    pthread_t thread;
    int began_empty = 0;
    kd_fault_quiet(1);
    (void)kd_fail(KD_ERR_ARG, "ours");
    cr_assert(pthread_create(&thread, NULL, other_thread, &began_empty) == 0);
    cr_assert(pthread_join(thread, NULL) == 0);
    cr_expect(eq(int, began_empty, 1));
    cr_expect(eq(str, (char *)kd_fault_text(), "ours"));
}

Test(status, every_status_has_a_name_of_its_own)
{
    for (int a = 0; a < KD_STATUS_COUNT; a++) {
        cr_assert(kd_status_name((kd_status)a) != NULL);
        for (int b = 0; b < a; b++) {
            cr_expect(strcmp(kd_status_name((kd_status)a), kd_status_name((kd_status)b)) != 0);
        }
    }
}

Test(status, a_failed_check_aborts, .signal = SIGABRT)
{
    KD_CHECK(1 + 1 == 3);
}

Test(clock, monotonic_never_goes_back_and_wall_is_after_2020)
{
    uint64_t last = kd_clock_monotonic_ns();
    for (int i = 0; i < 1000; i++) {
        const uint64_t now = kd_clock_monotonic_ns();
        cr_assert(ge(u64, now, last));
        last = now;
    }
    cr_expect(ge(dbl, kd_clock_monotonic_s(), (double)last * 1e-9));
    cr_expect(gt(dbl, kd_clock_wall_s(), 1.5778e9));
}
