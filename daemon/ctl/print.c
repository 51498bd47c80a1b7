#include "daemon/ctl/print.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "base/text.h"
#include "wire/json.h"

void ctl_print_json(const ProtobufCMessage *message)
{
    kd_text text = {0};
    kd_json_print(&text, message, KD_JSON_DEFAULTS);
    puts(text.failed ? "null" : text.data);
    (void)fflush(stdout);
    kd_text_release(&text);
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
