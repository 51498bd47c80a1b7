/*
 * rank.c - bytes of a rank become events of its attempt. A rank is believed only about itself, and only
 * the leader about the job; steps beyond the job's end are no rank's of ours.
 */
#include "daemon/rank.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "daemon/run.h"
#include "daemon/watch.h"
#include "proto/worker.pb-c.h"

struct rank_link {
    kd_connection *c;
    coordinator *co;
    run *run; /* NULL until registered, and after it was released */
    uint32_t rank;
    char host[128]; /* as the rank told it, for people */
};

rank_link *rank_open(coordinator *co, kd_connection *c)
{
    rank_link *link = calloc(1, sizeof *link);
    if (link != NULL) {
        *link = (rank_link){.c = c, .co = co};
    }
    return link;
}

static void send_or_close(rank_link *link, const Kd__DaemonMessage *message)
{
    if (kd_connection_send(link->c, &message->base)) {
        kd_connection_close(link->c);
    }
}

void rank_order_stop(rank_link *link)
{
    Kd__RankOrder order = KD__RANK_ORDER__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    order.has_kind = 1;
    order.kind = KD__RANK_ORDER__KIND__STOP;
    message.body_case = KD__DAEMON_MESSAGE__BODY_ORDER;
    message.order = &order;
    send_or_close(link, &message);
}

void rank_release(rank_link *link)
{
    link->run = NULL;
    kd_connection_close(link->c);
}

static void refuse(rank_link *link, const char *text)
{
    Kd__Error error = KD__ERROR__INIT;
    Kd__RankWelcome welcome = KD__RANK_WELCOME__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    error.has_code = 1;
    error.code = KD__ERROR__CODE__REFUSED;
    error.text = (char *)text; /* only read */
    welcome.error = &error;
    message.body_case = KD__DAEMON_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    send_or_close(link, &message);
    kd_connection_close_after_flush(link->c);
}

static void welcome(rank_link *link)
{
    Kd__RankWelcome welcome = KD__RANK_WELCOME__INIT;
    Kd__DaemonMessage message = KD__DAEMON_MESSAGE__INIT;
    welcome.has_heartbeat_ms = 1;
    welcome.heartbeat_ms = link->co->config->heartbeat_ms;
    message.body_case = KD__DAEMON_MESSAGE__BODY_WELCOME;
    message.welcome = &welcome;
    send_or_close(link, &message);
}

static void on_hello(rank_link *link, const Kd__RankHello *hello)
{
    const attempt_claim claim = {.job_id = hello->job_id,
                                 .attempt = hello->attempt,
                                 .rank = hello->rank,
                                 .world_size = hello->world_size,
                                 .secret = hello->secret.data,
                                 .secret_bytes = hello->secret.len,
                                 .pid = hello->pid};
    const entry *e = jobs_find(&link->co->jobs, hello->job_id);
    if (e == NULL || e->run == NULL) {
        (void)kd_fail(KD_ERR_NOT_FOUND, "rank hello: job %" PRIu64 " has no attempt under way",
                      hello->job_id);
        refuse(link, kd_fault_text());
        return;
    }
    if (run_register(e->run, &claim, link)) {
        refuse(link, kd_fault_text());
        return;
    }
    link->run = e->run;
    link->rank = hello->rank;
    (void)snprintf(link->host, sizeof link->host, "%s", hello->host != NULL ? hello->host : "?");
    kd_log(KD_LOG_INFO, "job %" PRIu64 ": rank %u of attempt %u is here, process %" PRIu64 " on %s",
           hello->job_id, hello->rank, hello->attempt, hello->pid,
           hello->host != NULL ? hello->host : "?");
    welcome(link);
    if (link->rank == 0 && run_is_told_to_stop(link->run)) {
        rank_order_stop(link); /* behind the welcome: a rank takes no orders before it */
    }
}

/* Only the leader's steps count; the others report nothing but themselves. */
static void on_step(rank_link *link, Kd__RankMessage *message)
{
    entry *e = run_entry(link->run);
    Kd__StepMetrics *step = message->step;
    if (link->rank != 0) {
        return;
    }
    message->body_case = KD__RANK_MESSAGE__BODY__NOT_SET; /* the entry keeps it */
    message->step = NULL;
    e->step = step->step;
    metrics_add(&e->metrics, step->step, step->time, step->tokens_per_second);
    if (entry_set_last(e, step)) {
        coordinator_fail(link->co);
        return;
    }
    const store_step row = {
        .step = e->step, .bytes = e->last_packed, .n_bytes = e->last_packed_bytes};
    if (store_put_step(link->co->store, e->job.id, &row)) {
        coordinator_fail(link->co);
    }
    watch_notify(e, NULL);
}

static void on_evaluation(rank_link *link, const Kd__EvaluationReport *report)
{
    entry *e = run_entry(link->run);
    if (!report->has_loss || !isfinite(report->loss)) {
        return;
    }
    e->test_loss = report->loss;
    e->test_accuracy = report->accuracy;
    coordinator_note(
        link->co, e, "evaluation",
        "step %" PRIu64 ": loss %.6f, perplexity %.4f, accuracy %.6f, %" PRIu64 " tokens",
        report->step, report->loss, report->perplexity, report->accuracy, report->tokens);
}

static void on_fault(rank_link *link, const Kd__FaultReport *report)
{
    const char *text = report->text != NULL ? report->text : "";
    attempt_fault(run_attempt(link->run), text, report->permanent);
    coordinator_note(link->co, run_entry(link->run), "fault", "rank %u: %s", link->rank, text);
}

static const char *text_of(const char *text)
{
    return text != NULL ? text : "";
}

/* Once for each device an attempt is not charged for it: the next ones will not have it. */
static void on_device(rank_link *link, const Kd__DeviceReport *report)
{
    attempt *a = run_attempt(link->run);
    entry *e = run_entry(link->run);
    char name[DEVICE_NAME_BYTES];
    if (report->kind == KD__DEVICE_REPORT__KIND__NONE_LEFT) {
        attempt_no_device(a);
        coordinator_note(link->co, e, "device", "rank %u on %s: %s", link->rank, link->host,
                         text_of(report->text));
        return;
    }
    (void)snprintf(name, sizeof name, "%.200s on %s", text_of(report->name), link->host);
    const bool is_new = devices_avoid(&link->co->devices, text_of(report->identity), name);
    if (is_new) {
        attempt_device_failed(a);
    }
    coordinator_note(link->co, e, "device", "rank %u: %s failed%s: %s", link->rank, name,
                     is_new ? ", and is avoided until distilld starts again" : "",
                     text_of(report->text));
}

static void on_finished(rank_link *link, const Kd__FinishedReport *report)
{
    if (link->rank == 0) {
        const bool completed = report->outcome == KD__FINISHED_REPORT__OUTCOME__COMPLETED;
        attempt_finished(run_attempt(link->run), completed ? ATTEMPT_COMPLETED : ATTEMPT_STOPPED);
    }
}

static void on_checkpoint(rank_link *link, const Kd__CheckpointReport *report)
{
    coordinator_note(link->co, run_entry(link->run), "checkpoint", "step %" PRIu64 ": %s",
                     report->step, report->path != NULL ? report->path : "");
}

/* Every message says that the rank lives; all but a heartbeat that it gets on. */
static void on_report(rank_link *link, Kd__RankMessage *message)
{
    attempt *a = run_attempt(link->run);
    const uint64_t n_steps = run_entry(link->run)->steps;
    const uint64_t now_ms = uv_now(link->co->loop);
    uint64_t step = 0;
    uint64_t work = 0;
    if (message->body_case == KD__RANK_MESSAGE__BODY_HEARTBEAT) {
        step = message->heartbeat->step;
        work = message->heartbeat->work;
    } else {
        attempt_progress(a, now_ms);
    }
    if (message->body_case == KD__RANK_MESSAGE__BODY_STEP) {
        step = message->step->step;
    }
    if (step > n_steps) {
        (void)kd_fail(KD_ERR_PROTO, "rank %u: found step %" PRIu64 ", expected at most %" PRIu64,
                      link->rank, step, n_steps);
        refuse(link, kd_fault_text());
        return;
    }
    attempt_heartbeat(a, link->rank, step, work, now_ms);
    kd_log(KD_LOG_DEBUG, "job %" PRIu64 ": rank %u: message %d at step %" PRIu64, a->job_id,
           link->rank, (int)message->body_case, step);
    switch (message->body_case) {
    case KD__RANK_MESSAGE__BODY_STEP:
        on_step(link, message);
        break;
    case KD__RANK_MESSAGE__BODY_CHECKPOINT:
        on_checkpoint(link, message->checkpoint);
        break;
    case KD__RANK_MESSAGE__BODY_EVALUATION:
        on_evaluation(link, message->evaluation);
        break;
    case KD__RANK_MESSAGE__BODY_FAULT:
        on_fault(link, message->fault);
        break;
    case KD__RANK_MESSAGE__BODY_DEVICE:
        on_device(link, message->device);
        break;
    case KD__RANK_MESSAGE__BODY_FINISHED:
        on_finished(link, message->finished);
        break;
    case KD__RANK_MESSAGE__BODY_HEARTBEAT:
        message->body_case = KD__RANK_MESSAGE__BODY__NOT_SET; /* the run keeps it */
        run_keep_heartbeat(link->run, link->rank, message->heartbeat);
        message->heartbeat = NULL;
        break;
    case KD__RANK_MESSAGE__BODY_HELLO:
    case KD__RANK_MESSAGE__BODY__NOT_SET:
    case _KD__RANK_MESSAGE__BODY__CASE_IS_INT_SIZE:
        break;
    }
}

static void on_frame(void *user, const uint8_t *payload, size_t size_bytes)
{
    rank_link *link = user;
    Kd__RankMessage *message = kd__rank_message__unpack(NULL, size_bytes, payload);
    if (message == NULL) {
        (void)kd_fail(KD_ERR_PROTO, "rank: a frame of %zu bytes is no message of a rank",
                      size_bytes);
        refuse(link, kd_fault_text());
        return;
    }
    if (link->run == NULL && message->body_case == KD__RANK_MESSAGE__BODY_HELLO) {
        on_hello(link, message->hello);
    } else if (link->run == NULL || message->body_case == KD__RANK_MESSAGE__BODY_HELLO) {
        refuse(link, link->run == NULL ? "the first message of a rank has to be its hello"
                                       : "this rank has said hello already");
    } else {
        on_report(link, message);
    }
    kd__rank_message__free_unpacked(message, NULL);
    if (link->run != NULL) {
        run_drive(link->run);
    }
}

static void on_closed(void *user)
{
    rank_link *link = user;
    if (link->run != NULL) {
        run *r = link->run;
        run_unregister(r, link->rank, link);
        run_drive(r);
    }
    free(link);
}

const peer_handler rank_handler = {.on_frame = on_frame, .on_closed = on_closed};
