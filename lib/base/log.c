/*
 * log.c - one write(2) a line: the kernel keeps those whole, where ranks and threads share a terminal or a
 * file. errno is as it was afterwards, so that a line between a call and its check does no harm.
 */
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/utf8.h"

enum { TEXT_BYTES = KD_FAULT_TEXT_BYTES, WHO_BYTES = 64, LINE_BYTES = TEXT_BYTES + WHO_BYTES + 64 };

static pthread_mutex_t who_lock = PTHREAD_MUTEX_INITIALIZER;
static char who_name[WHO_BYTES] = "kd"; /* under who_lock */
static atomic_int lowest_level = KD_LOG_INFO;

static _Thread_local char fault_text[TEXT_BYTES];
static _Thread_local int fault_quiet;

#undef kd_fail /* what the analyzer has in its place */

void kd_log_set_who(const char *who)
{
    pthread_mutex_lock(&who_lock);
    (void)snprintf(who_name, sizeof who_name, "%s", who);
    pthread_mutex_unlock(&who_lock);
}

void kd_log_set_level(kd_log_level level)
{
    atomic_store(&lowest_level, (int)level);
}

kd_log_level kd_log_get_level(void)
{
    return (kd_log_level)atomic_load(&lowest_level);
}

const char *kd_log_level_name(kd_log_level level)
{
    static const char *const names[] = {
        [KD_LOG_DEBUG] = "debug",
        [KD_LOG_INFO] = "info",
        [KD_LOG_WARN] = "warn",
        [KD_LOG_ERROR] = "error",
    };
    KD_CHECK((size_t)level < sizeof names / sizeof *names);
    return names[level];
}

/* Writes "2026-11-23T18:00:00.123Z level who: " and returns its length. */
static size_t print_head(char *line, size_t size, kd_log_level level)
{
    struct timespec now;
    struct tm utc;
    char day[32], who[WHO_BYTES];

    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &utc);
    pthread_mutex_lock(&who_lock);
    memcpy(who, who_name, sizeof who);
    pthread_mutex_unlock(&who_lock);

    const int n = snprintf(line, size, "%s.%03ldZ %s %s: ", day, now.tv_nsec / 1000000,
                           kd_log_level_name(level), who);
    KD_CHECK(n > 0 && (size_t)n < size);
    return (size_t)n;
}

/* One line stays one line, whatever a file or a peer put into the text. What is no UTF-8 goes by the byte. */
static void blank_controls(char *text)
{
    size_t n, size = strlen(text);
    for (; size > 0; text += n, size -= n) {
        uint32_t code = (unsigned char)*text;
        n = kd_utf8_decode(text, size, &code);
        n = n > 0 ? n : 1;
        if (kd_utf8_is_control(code)) {
            memset(text, ' ', n);
        }
    }
}

static void write_line(kd_log_level level, const char *text)
{
    char line[LINE_BYTES];
    const size_t n_head = print_head(line, sizeof line, level);

    (void)snprintf(line + n_head, sizeof line - n_head - 1, "%s", text);
    blank_controls(line + n_head);
    size_t size = strlen(line);
    line[size++] = '\n';

    const char *at = line;
    while (size > 0) {
        const ssize_t n = write(STDERR_FILENO, at, size);
        if (n < 0 && errno != EINTR) {
            return; /* there is nowhere left to complain to */
        }
        if (n > 0) {
            at += n;
            size -= (size_t)n;
        }
    }
}

void kd_log(kd_log_level level, const char *format, ...)
{
    if ((int)level < atomic_load(&lowest_level)) {
        return;
    }
    const int saved_errno = errno;
    char text[TEXT_BYTES];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    write_line(level, text);
    errno = saved_errno;
}

kd_status kd_fail(kd_status st, const char *format, ...)
{
    const int saved_errno = errno;
    char text[TEXT_BYTES]; /* the arguments may hold the text of the fault before */
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(fault_text, text, sizeof text);
    if (!fault_quiet) {
        write_line(KD_LOG_ERROR, fault_text);
    }
    errno = saved_errno;
    return st;
}

const char *kd_fault_text(void)
{
    return fault_text;
}

void kd_fault_recall(const char *text)
{
    (void)snprintf(fault_text, sizeof fault_text, "%s", text);
}

int kd_fault_quiet(int quiet)
{
    const int before = fault_quiet;
    fault_quiet = quiet;
    return before;
}
