/* query.c - the commands that ask once and print: list, show, events, metrics, logs, cancel. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/ctl/client.h"
#include "daemon/ctl/commands.h"
#include "daemon/ctl/print.h"
#include "message/json.h"

/* What is printed of an answer that comes in several replies. */
typedef struct pages {
    const ctl_options *options;
    kd_json_printer json; /* goes on from page to page */
    bool begun;
} pages;

static void print_json_pages(pages *p,
                             const char *key,
                             ProtobufCMessage *const *items,
                             size_t n_items,
                             bool more)
{
    kd_text text = {0};
    p->json.text = &text;
    if (p->json.depth == 0) {
        kd_json_begin(&p->json, '{');
        kd_json_key(&p->json, key);
        kd_json_begin(&p->json, '[');
    }
    for (size_t i = 0; i < n_items; i++) {
        kd_json_message(&p->json, items[i], KD_JSON_DEFAULTS);
    }
    if (!more) {
        kd_json_end(&p->json, ']');
        kd_json_end(&p->json, '}');
        kd_text_add(&text, "\n");
    }
    if (text.size > 0) {
        (void)fputs(text.failed ? "null\n" : text.data, stdout);
    }
    kd_text_release(&text);
}

static void print_job(const Kd__JobStatus *s)
{
    const bool running = s->state == KD__JOB_STATE__RUNNING;
    char rate[CTL_WORD_MAX];
    char left[CTL_WORD_MAX];
    printf("%6" PRIu64 "  %-10s %7" PRIu64 "/%-7" PRIu64 " %9s %9s  ", s->id,
           ctl_state_word(s->state), s->step, s->steps,
           ctl_rate(running ? s->tokens_per_second : 0, rate),
           ctl_duration(running && s->has_eta_seconds ? s->eta_seconds : -1, left));
    ctl_print_text(s->name);
    if (s->reason != NULL && *s->reason != '\0') {
        (void)fputs(": ", stdout);
        ctl_print_text(s->reason);
    }
    puts("");
}

static void print_list(const Kd__Reply *reply, void *user)
{
    pages *p = user;
    if (reply->body_case != KD__REPLY__BODY_LIST) {
        return;
    }
    const Kd__JobList *list = reply->list;
    if (p->options->json) {
        print_json_pages(p, "jobs", (ProtobufCMessage *const *)list->jobs, list->n_jobs,
                         reply->more);
        return;
    }
    if (!p->begun) {
        printf("%6s  %-10s %15s %9s %9s  %s\n", "JOB", "STATE", "STEP", "TOKENS/S", "LEFT",
               "NAME AND REASON");
        p->begun = true;
    }
    for (size_t i = 0; i < list->n_jobs; i++) {
        print_job(list->jobs[i]);
    }
}

ctl_exit ctl_list(const ctl_options *options)
{
    Kd__ListRequest list = KD__LIST_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    request.body_case = KD__REQUEST__BODY_LIST;
    request.list = &list;
    pages p = {.options = options};
    return ctl_ask(options, &request, print_list, &p);
}

static void print_line(const char *label, const char *value)
{
    if (value && *value) {
        printf("%-14s ", label);
        ctl_print_text(value);
        puts("");
    }
}

static void print_rank(const Kd__RankStatus *rank)
{
    printf("rank %-9" PRIu32 " ", rank->rank);
    ctl_print_text(rank->role);
    (void)fputs(" on ", stdout);
    ctl_print_text(rank->device);
    printf(", %.1f MiB in use", (double)rank->memory_bytes / 1048576.0);
    for (size_t i = 0, n = 0; i < rank->n_parts; i++) {
        if (rank->parts[i]->has_seconds) {
            (void)fputs(n++ == 0 ? ", ms a step: " : ", ", stdout);
            ctl_print_text(rank->parts[i]->name);
            printf(" %.1f", rank->parts[i]->seconds * 1e3);
        }
    }
    puts("");
}

static void print_status(const Kd__JobStatus *s)
{
    char word[CTL_WORD_MAX];
    printf("%-14s %" PRIu64 "\n", "job", s->id);
    print_line("name", s->name);
    print_line("state", ctl_state_word(s->state));
    print_line("reason", s->reason);
    printf("%-14s %" PRIu32 "\n", "attempts", s->attempts);
    printf("%-14s %" PRIu64 " of %" PRIu64 "\n", "step", s->step, s->steps);
    for (size_t i = 0; i < s->n_losses; i++) {
        const Kd__Loss *loss = s->losses[i];
        if (loss->has_raw) {
            printf("loss %-9s %.4f (weighted %.4f)\n", loss->name, loss->raw, loss->weighted);
        } else {
            printf("loss %-9s not computed\n", loss->name);
        }
    }
    if (s->has_loss) {
        printf("%-14s %.4f\n", "loss", s->loss);
    }
    if (s->has_tokens_per_second) {
        print_line("tokens/s", ctl_rate(s->tokens_per_second, word));
    }
    if (s->has_eta_seconds) {
        print_line("left", ctl_duration(s->eta_seconds, word));
    }
    if (s->has_test_loss) {
        printf("%-14s %.4f\n%-14s %.2f %%\n", "test loss", s->test_loss, "test accuracy",
               100 * s->test_accuracy);
    }
    for (size_t i = 0; i < s->n_ranks; i++) {
        print_rank(s->ranks[i]);
    }
    print_line("output", s->output);
    print_line("submitted", ctl_time(s->submitted_at, word));
    print_line("started", ctl_time(s->started_at, word));
    print_line("finished", ctl_time(s->finished_at, word));
}

static void print_show(const Kd__Reply *reply, void *user)
{
    const ctl_options *options = user;
    if (reply->body_case != KD__REPLY__BODY_STATUS) {
        return;
    }
    if (options->json) {
        ctl_print_json(&reply->status->base);
        puts("");
    } else {
        print_status(reply->status);
    }
}

static void print_events(const Kd__Reply *reply, void *user)
{
    pages *p = user;
    char when[CTL_WORD_MAX];
    if (reply->body_case != KD__REPLY__BODY_EVENTS) {
        return;
    }
    const Kd__EventList *list = reply->events;
    if (p->options->json) {
        print_json_pages(p, "events", (ProtobufCMessage *const *)list->events, list->n_events,
                         reply->more);
        return;
    }
    for (size_t i = 0; i < list->n_events; i++) {
        const Kd__Event *e = list->events[i];
        printf("%s  %-10s %-11s ", ctl_time(e->time, when), ctl_state_word(e->state),
               e->kind ? e->kind : "");
        ctl_print_text(e->text);
        puts("");
    }
}

static void print_metrics_header(const Kd__StepMetrics *first, bool csv)
{
    printf(csv ? "step,time,loss" : "%8s %10s", "step", "loss");
    for (size_t i = 0; i < first->n_losses; i++) {
        printf(csv ? ",%s" : " %10s", first->losses[i]->name);
    }
    (void)fputs(csv ? ",learning_rate,gradient_norm,tokens_per_second,stall_share"
                    : "         lr  grad norm   tokens/s  stalled",
                stdout);
    for (size_t i = 0; i < first->n_parts; i++) {
        printf(csv ? ",%s_ms" : " %9s", first->parts[i]->name);
    }
    puts("");
}

static void print_metrics_row(const Kd__StepMetrics *m, bool csv)
{
    if (csv) {
        printf("%" PRIu64 ",%.3f,%.9g", m->step, m->time, m->loss);
    } else {
        printf("%8" PRIu64 " %10.4f", m->step, m->loss);
    }
    for (size_t i = 0; i < m->n_losses; i++) {
        if (m->losses[i]->has_raw) {
            printf(csv ? ",%.9g" : " %10.4f", m->losses[i]->raw);
        } else {
            printf("%s", csv ? "," : "          -");
        }
    }
    printf(csv ? ",%.9g,%.9g,%.1f,%.4f" : " %10.3g %10.4f %10.0f %8.3f", m->learning_rate,
           m->gradient_norm, m->tokens_per_second, m->stall_share);
    for (size_t i = 0; i < m->n_parts; i++) {
        if (m->parts[i]->has_seconds) {
            printf(csv ? ",%.3f" : " %9.1f", m->parts[i]->seconds * 1e3);
        } else {
            printf("%s", csv ? "," : "         -");
        }
    }
    puts("");
}

static void print_metrics(const Kd__Reply *reply, void *user)
{
    pages *p = user;
    if (reply->body_case != KD__REPLY__BODY_METRICS) {
        return;
    }
    const Kd__MetricsList *list = reply->metrics;
    if (p->options->json) {
        print_json_pages(p, "steps", (ProtobufCMessage *const *)list->steps, list->n_steps,
                         reply->more);
        return;
    }
    for (size_t i = 0; i < list->n_steps; i++) {
        if (!p->begun) {
            print_metrics_header(list->steps[i], p->options->csv);
            p->begun = true;
        }
        print_metrics_row(list->steps[i], p->options->csv);
    }
}

static void print_log(const Kd__Reply *reply, void *user)
{
    const ctl_options *options = user;
    if (reply->body_case != KD__REPLY__BODY_LOG) {
        return;
    }
    if (options->json) {
        ctl_print_json(&reply->log->base);
        puts("");
        return;
    }
    (void)fwrite(reply->log->data.data, 1, reply->log->data.len, stdout);
}

/* Asks something that takes just the job's number. */
static ctl_exit ask_about_job(const ctl_options *options,
                              Kd__Request__BodyCase what,
                              ctl_on_reply on_reply,
                              void *user)
{
    Kd__JobRequest job = KD__JOB_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    const ctl_exit result = ctl_job_id(options->argument, &job.job_id);
    if (result != CTL_OK) {
        return result;
    }
    job.has_job_id = true;
    request.body_case = what;
    request.show = &job; /* all of them are a Kd__JobRequest in the same union */
    return ctl_ask(options, &request, on_reply, user);
}

ctl_exit ctl_show(const ctl_options *options)
{
    return ask_about_job(options, KD__REQUEST__BODY_SHOW, print_show, (void *)options);
}

ctl_exit ctl_events(const ctl_options *options)
{
    pages p = {.options = options};
    return ask_about_job(options, KD__REQUEST__BODY_EVENTS, print_events, &p);
}

static void print_cancelled(const Kd__Reply *reply, void *user)
{
    const ctl_options *options = user;
    if (options->json && reply->body_case == KD__REPLY__BODY_STATUS) {
        ctl_print_json(&reply->status->base);
        puts("");
    }
}

ctl_exit ctl_cancel(const ctl_options *options)
{
    return ask_about_job(options, KD__REQUEST__BODY_CANCEL, print_cancelled, (void *)options);
}

ctl_exit ctl_metrics(const ctl_options *options)
{
    Kd__MetricsRequest metrics = KD__METRICS_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    pages p = {.options = options};
    const ctl_exit result = ctl_job_id(options->argument, &metrics.job_id);
    if (result != CTL_OK) {
        return result;
    }
    metrics.has_job_id = true;
    request.body_case = KD__REQUEST__BODY_METRICS;
    request.metrics = &metrics;
    return ctl_ask(options, &request, print_metrics, &p);
}

ctl_exit ctl_logs(const ctl_options *options)
{
    Kd__LogsRequest logs = KD__LOGS_REQUEST__INIT;
    Kd__Request request = KD__REQUEST__INIT;
    const ctl_exit result = ctl_job_id(options->argument, &logs.job_id);
    if (result != CTL_OK) {
        return result;
    }
    logs.has_job_id = true;
    logs.has_follow = true;
    logs.follow = options->follow;
    request.body_case = KD__REQUEST__BODY_LOGS;
    request.logs = &logs;
    return ctl_ask(options, &request, print_log, (void *)options);
}
