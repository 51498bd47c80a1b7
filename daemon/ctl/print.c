/*
 * print.c - words, times and numbers as people read them, in one place, so that all commands show a thing
 * alike; what is unknown is a dash.
 */
#include "daemon/ctl/print.h"

#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/text.h"
#include "base/utf8.h"
#include "message/json.h"

void ctl_print_json(const ProtobufCMessage *message)
{
    kd_text text = {0};
    kd_json_print(&text, message, KD_JSON_DEFAULTS);
    (void)fputs(text.failed ? "null" : text.data, stdout);
    kd_text_release(&text);
}

void ctl_print_text(const char *text)
{
    size_t size = text != NULL ? strlen(text) : 0;
    while (size > 0) {
        uint32_t code = 0;
        const size_t n = kd_utf8_decode(text, size, &code);
        if (n == 0 || kd_utf8_is_control(code)) {
            (void)putchar('?');
        } else {
            (void)fwrite(text, 1, n, stdout);
        }
        text += n > 0 ? n : 1;
        size -= n > 0 ? n : 1;
    }
}

/* The connection has the whole process ignore SIGPIPE, so a reader that left is looked for here. */
static bool reader_has_left(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

bool ctl_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return true;
    }
    if (reader_has_left()) {
        (void)signal(SIGPIPE, SIG_DFL);
        (void)raise(SIGPIPE);
    }
    return false;
}

const char *ctl_state_word(Kd__JobState state)
{
    switch (state) {
    case KD__JOB_STATE__QUEUED:
        return "queued";
    case KD__JOB_STATE__STARTING:
        return "starting";
    case KD__JOB_STATE__RUNNING:
        return "running";
    case KD__JOB_STATE__SUCCEEDED:
        return "succeeded";
    case KD__JOB_STATE__FAILED:
        return "failed";
    case KD__JOB_STATE__CANCELLED:
        return "cancelled";
    case _KD__JOB_STATE_IS_INT_SIZE:
        break;
    }
    return "unknown";
}

const char *ctl_duration(double seconds, char out[CTL_WORD_MAX])
{
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e9) {
        (void)snprintf(out, CTL_WORD_MAX, "-");
        return out;
    }
    const long s = lround(seconds);
    if (s < 60) {
        (void)snprintf(out, CTL_WORD_MAX, "%lds", s);
    } else if (s < 3600) {
        (void)snprintf(out, CTL_WORD_MAX, "%ldm %02lds", s / 60, s % 60);
    } else {
        (void)snprintf(out, CTL_WORD_MAX, "%ldh %02ldm", s / 3600, s / 60 % 60);
    }
    return out;
}

const char *ctl_rate(double per_second, char out[CTL_WORD_MAX])
{
    if (!isfinite(per_second) || per_second <= 0) {
        (void)snprintf(out, CTL_WORD_MAX, "-");
    } else if (per_second < 9999.5) {
        (void)snprintf(out, CTL_WORD_MAX, "%.0f", per_second);
    } else {
        (void)snprintf(out, CTL_WORD_MAX, "%.1fk", per_second / 1000);
    }
    return out;
}

const char *ctl_time(double unix_seconds, char out[CTL_WORD_MAX])
{
    const time_t t = (time_t)unix_seconds;
    struct tm parts;
    if (unix_seconds <= 0 || localtime_r(&t, &parts) == NULL ||
        strftime(out, CTL_WORD_MAX, "%Y-%m-%d %H:%M:%S", &parts) == 0) {
        (void)snprintf(out, CTL_WORD_MAX, "-");
    }
    return out;
}
