/*
 * watch.c - a job's progress, live: a bar that is redrawn on a terminal, plain lines elsewhere,
 * JSON lines with --json. Survives a restart of the daemon.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/ctl/client.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"

#define PLAIN_INTERVAL_S   2.0 /* between plain progress lines                     */
#define RECONNECT_PATIENCE 60  /* seconds to wait for a daemon that went away      */
#define BAR_WIDTH          24

typedef struct watcher {
    const ctl_options *options;
    bool terminal;
    bool seen;        /* at least one update came                    */
    bool bar_shown;   /* the cursor stands behind a bar              */
    double last_line; /* monotonic seconds of the last progress line */
    uint64_t last_step;
    Kd__JobState state;
} watcher;

static bool is_final(Kd__JobState state)
{
    return state == KD__JOB_STATE__SUCCEEDED || state == KD__JOB_STATE__FAILED ||
           state == KD__JOB_STATE__CANCELLED;
}

static int terminal_columns(void)
{
    struct winsize size;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

static void clear_bar(watcher *w)
{
    if (w->bar_shown) {
        (void)fputs("\r\033[K", stdout);
        w->bar_shown = false;
    }
}

/* step 120/800  loss 1.2345 (kd 0.1, hard 1.4)  12.3k tokens/s  1m 10s left */
static void format_progress(const Kd__JobStatus *s, char *out, size_t size)
{
    char rate[CTL_WORD_MAX];
    char left[CTL_WORD_MAX];
    int used = snprintf(out, size, "step %" PRIu64 "/%" PRIu64, s->step, s->steps);
    if (s->has_loss) {
        used += snprintf(out + used, size - (size_t)used, "  loss %.4f", s->loss);
    }
    for (size_t i = 0; i < s->n_losses && (size_t)used + 64 < size; i++) {
        const Kd__Loss *loss = s->losses[i];
        used += snprintf(out + used, size - (size_t)used, "%s%.20s %.4g%s", i ? ", " : " (",
                         loss->name, loss->raw, i + 1 == s->n_losses ? ")" : "");
    }
    if (s->has_tokens_per_second && (size_t)used + 64 < size) {
        (void)snprintf(out + used, size - (size_t)used, "  %s tokens/s  %s left",
                       ctl_rate(s->tokens_per_second, rate),
                       ctl_duration(s->has_eta_seconds ? s->eta_seconds : -1, left));
    }
}

static void draw_bar(watcher *w, const Kd__JobStatus *s)
{
    char progress[512];
    char line[640];
    const double share = s->steps ? (double)s->step / (double)s->steps : 0;
    const int full = (int)lround(share * BAR_WIDTH);
    char bar[BAR_WIDTH + 1];
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)full);
    bar[BAR_WIDTH] = '\0';
    format_progress(s, progress, sizeof progress);
    (void)snprintf(line, sizeof line, "[%s] %3.0f %%  %s", bar, 100 * share, progress);
    printf("\r\033[K%.*s", terminal_columns() - 1, line);
    (void)fflush(stdout);
    w->bar_shown = true;
}

static void print_progress(watcher *w, const Kd__JobStatus *s)
{
    const double now = kd_clock_monotonic_s();
    char progress[512];
    if (s->state != KD__JOB_STATE__RUNNING || s->step == w->last_step) {
        return;
    }
    if (w->terminal) {
        draw_bar(w, s);
    } else if (now - w->last_line >= PLAIN_INTERVAL_S || s->step == s->steps) {
        format_progress(s, progress, sizeof progress);
        puts(progress);
        (void)fflush(stdout);
        w->last_line = now;
    }
    w->last_step = s->step;
}

static void print_event(watcher *w, const Kd__Event *event)
{
    clear_bar(w);
    printf("%s: %s\n", event->kind ? event->kind : "event", event->text ? event->text : "");
    (void)fflush(stdout);
}

static void on_update(const Kd__Reply *reply, void *user)
{
    watcher *w = user;
    if (reply->body_case != KD__REPLY__BODY_UPDATE) {
        return;
    }
    const Kd__WatchUpdate *update = reply->update;
    w->seen = true;
    if (update->status) {
        w->state = update->status->state;
    }
    if (w->options->json) {
        ctl_print_json(&update->base);
        return;
    }
    if (update->has_missed && update->missed) {
        clear_bar(w);
        printf("missed %" PRIu64 " updates\n", update->missed);
    }
    if (update->event) {
        print_event(w, update->event);
    }
    if (update->status) {
        print_progress(w, update->status);
    }
}

ctl_exit ctl_watch_job(const ctl_options *options, uint64_t job_id)
{
    Kd__WatchRequest watch = KD__WATCH_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    watcher w = {.options = options, .terminal = isatty(STDOUT_FILENO) == 1};
    watch.job_id = job_id;
    watch.has_job_id = true;
    request.body_case = KD__REQUEST__BODY_WATCH;
    request.watch = &watch;

    ctl_exit result = ctl_ask(options, &request, on_update, &w);
    const double lost_at = kd_clock_monotonic_s();
    while (result == CTL_UNREACHABLE && w.seen &&
           kd_clock_monotonic_s() - lost_at < RECONNECT_PATIENCE) {
        (void)sleep(1);
        result = ctl_ask(options, &request, on_update, &w);
    }
    clear_bar(&w);
    if (result != CTL_OK) {
        return result;
    }
    if (!is_final(w.state)) {
        (void)fputs("distillctl: the daemon ended the stream before the job's end\n", stderr);
        return CTL_UNREACHABLE;
    }
    return w.state == KD__JOB_STATE__SUCCEEDED ? CTL_OK : CTL_JOB_FAILED;
}

ctl_exit ctl_watch(const ctl_options *options)
{
    uint64_t job_id;
    const ctl_exit result = ctl_job_id(options->argument, &job_id);
    return result == CTL_OK ? ctl_watch_job(options, job_id) : result;
}
