/*
 * watch.c - a job's progress, live: a bar that is redrawn on a terminal, plain lines elsewhere,
 * JSON lines with --json. Survives a restart of the daemon.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "daemon/ctl/client.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"

#define BAR_INTERVAL_S   0.1 /* between two drawings of the bar         */
#define PLAIN_INTERVAL_S 2.0 /* between plain progress lines             */
#define PATIENCE_S       60  /* to wait for a daemon that went away      */
#define BAR_WIDTH_MAX    24

typedef struct watcher {
    const ctl_options *options;
    bool terminal;
    bool seen;        /* an update came over this connection         */
    bool begun;       /* the state it was found in has been printed  */
    bool bar_shown;   /* the cursor stands behind a bar              */
    double last_line; /* monotonic seconds of the last bar or line */
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

/* step 120/800  loss 1.2345  12.3k tokens/s  1m 10s left  (kd 0.1, hard 1.4) */
static void format_progress(const Kd__JobStatus *s, kd_text *out)
{
    char word[CTL_WORD_MAX];
    kd_text_printf(out, "step %" PRIu64 "/%" PRIu64, s->step, s->steps);
    if (s->has_loss) {
        kd_text_printf(out, "  loss %.4f", s->loss);
    }
    if (s->has_tokens_per_second) {
        kd_text_printf(out, "  %s tokens/s", ctl_rate(s->tokens_per_second, word));
    }
    if (s->has_eta_seconds) {
        kd_text_printf(out, "  %s left", ctl_duration(s->eta_seconds, word));
    }
    for (size_t i = 0; i < s->n_losses; i++) { /* last, since a narrow terminal cuts them off */
        const Kd__Loss *loss = s->losses[i];
        kd_text_printf(out, "%s%s ", i ? ", " : "  (", loss->name ? loss->name : "?");
        if (loss->has_raw) {
            kd_text_printf(out, "%.4g", loss->raw);
        } else {
            kd_text_add(out, "-");
        }
        kd_text_add(out, i + 1 == s->n_losses ? ")" : "");
    }
}

static void format_bar(const Kd__JobStatus *s, int width, kd_text *out)
{
    const double share = s->step < s->steps ? (double)s->step / (double)s->steps : 1;
    kd_text_add(out, "[");
    for (int i = 0; i < width; i++) {
        kd_text_add(out, i < (int)lround(share * width) ? "#" : ".");
    }
    kd_text_printf(out, "] %3.0f %%  ", 100 * share);
}

static void draw_bar(watcher *w, const Kd__JobStatus *s)
{
    const int columns = terminal_columns();
    const int width = columns / 6; /* so that all but the losses fits into 80 columns */
    kd_text line = {0};
    format_bar(s, width < BAR_WIDTH_MAX ? width : BAR_WIDTH_MAX, &line);
    format_progress(s, &line);
    printf("\r\033[K%.*s", columns - 1, line.failed ? "" : line.data);
    kd_text_release(&line);
    w->bar_shown = true;
}

static void print_line(const Kd__JobStatus *s)
{
    kd_text line = {0};
    format_progress(s, &line);
    puts(line.failed ? "" : line.data);
    kd_text_release(&line);
}

static void print_progress(watcher *w, const Kd__JobStatus *s)
{
    const double now = kd_clock_monotonic_s();
    const double interval_s = w->terminal ? BAR_INTERVAL_S : PLAIN_INTERVAL_S;
    const bool due = now - w->last_line >= interval_s || s->step == s->steps;
    if (s->state != KD__JOB_STATE__RUNNING || s->step == w->last_step || !due) {
        return;
    }
    w->terminal ? draw_bar(w, s) : print_line(s);
    w->last_line = now;
    w->last_step = s->step;
}

static void print_event(watcher *w, const char *kind, const char *text)
{
    clear_bar(w);
    printf("%s: ", kind ? kind : "event");
    ctl_print_text(text);
    puts("");
}

/* How the job was found; from there on its events tell. */
static void print_state(watcher *w, const Kd__JobStatus *s)
{
    kd_text text = {0};
    kd_text_add(&text, ctl_state_word(s->state));
    if (s->reason != NULL && *s->reason != '\0') {
        kd_text_printf(&text, ": %s", s->reason);
    }
    print_event(w, "state", text.failed ? "" : text.data);
    kd_text_release(&text);
    w->begun = true;
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
        puts("");
        return;
    }
    if (update->has_missed && update->missed) {
        clear_bar(w);
        printf("missed %" PRIu64 " updates\n", update->missed);
    }
    if (update->event) {
        print_event(w, update->event->kind, update->event->text);
    } else if (update->status && !w->begun) {
        print_state(w, update->status);
    }
    if (update->status) {
        print_progress(w, update->status);
    }
}

/* Asks again, quietly, until the daemon is back or the patience is at its end. */
static ctl_exit watch_again(watcher *w, Kd__Request *request)
{
    ctl_options quiet = *w->options;
    ctl_exit result = CTL_UNREACHABLE;
    quiet.quiet = true;
    clear_bar(w);
    (void)ctl_flush();
    (void)fprintf(stderr, "distillctl: lost the daemon; waiting %d s for it to come back\n",
                  PATIENCE_S);
    w->seen = false;
    for (int waited_s = 0; result == CTL_UNREACHABLE && !w->seen && waited_s < PATIENCE_S;
         waited_s++) {
        (void)sleep(1);
        result = ctl_ask(&quiet, request, on_update, w);
    }
    if (result == CTL_UNREACHABLE && !w->seen) {
        (void)fputs("distillctl: the daemon has not come back\n", stderr);
    }
    return result;
}

static ctl_exit follow(watcher *w, Kd__Request *request)
{
    ctl_exit result = ctl_ask(w->options, request, on_update, w);
    while (result == CTL_UNREACHABLE && w->seen) {
        result = watch_again(w, request);
    }
    return result;
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

    const ctl_exit result = follow(&w, &request);
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
