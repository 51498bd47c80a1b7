/*
 * coordinator.c - the one writer: what happens becomes an event of job.h, a row and an event of the store,
 * and is shown when it is on disk. Others report to it and change nothing themselves.
 */
#include "daemon/coordinator.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/run.h"
#include "daemon/watch.h"

#define TICK_MS 200

/* What watchers hear once it is on disk. */
typedef struct change {
    coordinator *co;
    entry *entry;
    uint64_t seq;
    double time;
    job_state state;
    const char *kind; /* a literal */
    char text[];
} change;

static void end(coordinator *co, coordinator_end how)
{
    if (!co->over) {
        co->over = true;
        co->on_end(co->context, how);
    }
}

void coordinator_fail(coordinator *co)
{
    end(co, COORDINATOR_STORE_FAILED);
}

static void on_store_failed(void *context)
{
    coordinator_fail(context);
}

kd_status coordinator_open(coordinator *co)
{
    kd_status st = store_open(co->loop, co->folder, on_store_failed, co, &co->store);
    if (st) {
        return st;
    }
    if (uv_timer_init(co->loop, &co->tick) != 0) {
        st = kd_fail(KD_ERR_IO, "cannot make a timer");
        goto err_close_store;
    }
    scheduler_init(&co->scheduler, co->config->slots);
    st = coordinator_load(co);
    if (st) {
        goto err_close_timer;
    }
    return KD_OK;

err_close_timer:
    uv_close((uv_handle_t *)&co->tick, NULL);
err_close_store:
    store_close(co->store);
    co->store = NULL;
    return st;
}

void coordinator_close(coordinator *co)
{
    co->over = true;
    uv_close((uv_handle_t *)&co->tick, NULL);
    while (co->n_on_pool > 0) {
        (void)uv_run(co->loop, UV_RUN_ONCE);
    }
    store_close(co->store);
    co->store = NULL;
}

void coordinator_release(coordinator *co)
{
    run_abandon_all(co);
    jobs_release(&co->jobs);
    scheduler_release(&co->scheduler);
}

static void on_change_done(void *context, kd_status st)
{
    change *c = context;
    if (st == KD_OK) {
        c->entry->shown = c->state;
        Kd__Event event = KD__EVENT__INIT;
        event.has_seq = event.has_job_id = event.has_time = event.has_state = 1;
        event.seq = c->seq;
        event.job_id = c->entry->job.id;
        event.time = c->time;
        event.kind = (char *)c->kind; /* only read */
        event.text = c->text;
        event.state = (Kd__JobState)c->state;
        watch_notify(c->entry, &event);
    }
    free(c);
}

static store_event event_of(coordinator *co, const entry *e, const char *kind, const char *text)
{
    return (store_event){.seq = ++co->last_seq,
                         .job_id = e->job.id,
                         .time = kd_clock_wall_s(),
                         .kind = kind,
                         .text = text,
                         .state = e->job.state};
}

/* The row and one event; whoever watches hears of it when it is on disk. */
static void save(coordinator *co, entry *e, const char *kind, const char *text)
{
    const store_event event = event_of(co, e, kind, text);
    const size_t n_bytes = strlen(text) + 1;
    change *c = malloc(sizeof *c + n_bytes);
    if (c == NULL) {
        coordinator_fail(co);
        return;
    }
    *c = (change){.co = co,
                  .entry = e,
                  .seq = event.seq,
                  .time = event.time,
                  .state = event.state,
                  .kind = kind};
    memcpy(c->text, text, n_bytes);
    store_job row;
    entry_row(e, &row);
    if (store_update_job(co->store, &row, &event, on_change_done, c)) {
        free(c);
        coordinator_fail(co);
    }
}

void coordinator_note(coordinator *co, entry *e, const char *kind, const char *format, ...)
{
    char text[2048];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    save(co, e, kind, text);
}

kd_status coordinator_submit(coordinator *co, entry *e, store_done done, void *context)
{
    const store_event event = event_of(co, e, "submitted", e->name);
    store_job row;
    entry_row(e, &row);
    return store_insert_job(co->store, &row, &event, done, context);
}

static entry *entry_of(scheduler_item *item)
{
    return (entry *)((char *)item - offsetof(entry, item));
}

/* Only the first of the jobs it comes after that did not succeed is named. */
static const entry *lost_dependency(const coordinator *co, const Kd__Job *spec)
{
    for (size_t i = 0; i < spec->n_after; i++) {
        const entry *first = jobs_find(&co->jobs, strtoull(spec->after[i], NULL, 10));
        if (first == NULL || first->job.state == JOB_FAILED || first->job.state == JOB_CANCELLED) {
            return first;
        }
    }
    return NULL;
}

static void fail_follower(coordinator *co, entry *e, const entry *first)
{
    char reason[256];
    (void)snprintf(reason, sizeof reason, "job %" PRIu64 " (%.100s), which it comes after, %s",
                   first->job.id, first->name,
                   first->job.state == JOB_FAILED ? "failed" : "was cancelled");
    if (e->job.state == JOB_QUEUED && coordinator_apply(co, e, JOB_EV_DEPENDENCY, reason)) {
        coordinator_fail(co);
    }
}

static kd_status follow_all(coordinator *co, entry *e, const Kd__Job *spec)
{
    for (size_t i = 0; i < spec->n_after; i++) {
        entry *first = jobs_find(&co->jobs, strtoull(spec->after[i], NULL, 10));
        if (first != NULL && first->job.state != JOB_SUCCEEDED) {
            const kd_status st = scheduler_follow(&e->item, &first->item);
            if (st) {
                return st;
            }
        }
    }
    return scheduler_add(&co->scheduler, &e->item);
}

void coordinator_accept(coordinator *co, entry *e, const Kd__Job *spec)
{
    e->durable = true;
    if (e->job.state != JOB_QUEUED) {
        return;
    }
    const entry *lost = lost_dependency(co, spec);
    if (lost != NULL) {
        fail_follower(co, e, lost);
    } else if (follow_all(co, e, spec)) {
        coordinator_fail(co);
    }
}

/* A loop, not a recursion: the chain of jobs that come after one another may be long. */
static void tell_followers(coordinator *co)
{
    if (co->telling_followers) {
        return;
    }
    co->telling_followers = true;
    while (co->ended != NULL) {
        entry *first = co->ended;
        co->ended = first->next_ended;
        for (size_t i = 0; i < first->item.n_followers; i++) {
            fail_follower(co, entry_of(first->item.followers[i]), first);
        }
    }
    co->telling_followers = false;
}

static void finish_job(coordinator *co, entry *e)
{
    scheduler_retire(&co->scheduler, &e->item);
    if (e->retry_at_ms != 0) {
        e->retry_at_ms = 0;
        co->n_retrying--;
    }
    if (e->job.state == JOB_SUCCEEDED) {
        if (scheduler_succeeded(&co->scheduler, &e->item)) {
            coordinator_fail(co);
        }
        return;
    }
    e->next_ended = co->ended;
    co->ended = e;
    tell_followers(co);
}

static void retry_later(coordinator *co, entry *e)
{
    e->retry_at_ms = uv_now(co->loop) + job_backoff_ms(&e->job);
    if (co->n_retrying++ == 0 || e->retry_at_ms < co->next_retry_ms) {
        co->next_retry_ms = e->retry_at_ms;
    }
}

static void carry_out(coordinator *co, entry *e, job_action action)
{
    switch (action) {
    case JOB_DO_NOTHING:
        return;
    case JOB_DO_STOP:
        if (e->run != NULL) {
            run_stop(e->run);
        }
        return;
    case JOB_DO_QUEUE:
        scheduler_remove(&co->scheduler, &e->item);
        if (scheduler_add(&co->scheduler, &e->item)) {
            coordinator_fail(co);
        }
        return;
    case JOB_DO_WAIT:
        scheduler_remove(&co->scheduler, &e->item);
        return;
    case JOB_DO_RETRY:
        scheduler_remove(&co->scheduler, &e->item);
        retry_later(co, e);
        return;
    case JOB_DO_END:
        finish_job(co, e);
        return;
    }
}

static void say_state(const entry *e, job_event event, char *text, size_t text_bytes)
{
    const char *state = job_state_name(e->job.state);
    if (event == JOB_EV_LAUNCH) {
        (void)snprintf(text, text_bytes, "%s: attempt %u", state, e->job.attempts);
    } else if (event == JOB_EV_CANCEL && !job_state_is_final(e->job.state)) {
        (void)snprintf(text, text_bytes, "%s: cancel was asked", state);
    } else if (e->reason[0] != '\0') {
        (void)snprintf(text, text_bytes, "%s: %s", state, e->reason);
    } else {
        (void)snprintf(text, text_bytes, "%s", state);
    }
}

kd_status coordinator_apply(coordinator *co, entry *e, job_event event, const char *reason)
{
    job_action action;
    const kd_status st = job_handle(&e->job, event, &action);
    if (st) {
        return st;
    }
    const double now = kd_clock_wall_s();
    if (event == JOB_EV_LAUNCH && e->started_at <= 0.0) {
        e->started_at = now;
    }
    if (job_state_is_final(e->job.state)) {
        e->finished_at = now;
    }
    if (e->job.state == JOB_CANCELLED) {
        reason = "cancelled by its user";
    }
    if (entry_set_reason(e, reason)) {
        coordinator_fail(co);
        return KD_OK;
    }
    char text[ATTEMPT_TEXT_BYTES + 64];
    say_state(e, event, text, sizeof text);
    kd_log(KD_LOG_INFO, "job %" PRIu64 ": %s", e->job.id, text);
    save(co, e, "state", text);
    carry_out(co, e, action);
    return KD_OK;
}

void coordinator_schedule(coordinator *co)
{
    if (co->config->hold_queue || co->stopping || co->over) {
        return;
    }
    for (scheduler_item *item = scheduler_next(&co->scheduler); item != NULL;
         item = scheduler_next(&co->scheduler)) {
        run_start(co, entry_of(item));
    }
}

/* Rare and short: only while some job waits out a backoff that has ended. */
static void wake_retries(coordinator *co, uint64_t now_ms)
{
    if (co->n_retrying == 0 || now_ms < co->next_retry_ms) {
        return;
    }
    co->next_retry_ms = UINT64_MAX;
    for (size_t i = 0; i < co->jobs.n; i++) {
        entry *e = co->jobs.by_id[i];
        if (e == NULL || e->retry_at_ms == 0) {
            continue;
        }
        if (e->retry_at_ms > now_ms) {
            co->next_retry_ms =
                e->retry_at_ms < co->next_retry_ms ? e->retry_at_ms : co->next_retry_ms;
            continue;
        }
        e->retry_at_ms = 0;
        co->n_retrying--;
        if (scheduler_add(&co->scheduler, &e->item)) {
            coordinator_fail(co);
        }
    }
}

static void on_settled(void *context, kd_status st)
{
    if (st == KD_OK) {
        end(context, COORDINATOR_STOPPED);
    }
}

/* The barrier's answer comes after all that the last attempt had to save. */
static void look_if_stopped(coordinator *co)
{
    if (co->stopping && !co->settling && co->runs == NULL) {
        co->settling = true;
        if (store_barrier(co->store, on_settled, co)) {
            coordinator_fail(co);
        }
    }
}

static void on_tick(uv_timer_t *timer)
{
    coordinator *co = timer->data;
    wake_retries(co, uv_now(co->loop));
    run_tick_all(co);
    coordinator_schedule(co);
    look_if_stopped(co);
}

kd_status coordinator_start(coordinator *co)
{
    co->tick.data = co;
    if (uv_timer_start(&co->tick, on_tick, TICK_MS, TICK_MS) != 0) {
        return kd_fail(KD_ERR_IO, "cannot start a timer");
    }
    coordinator_schedule(co);
    return KD_OK;
}

void coordinator_stop(coordinator *co)
{
    co->stopping = true;
    for (run *r = co->runs, *next; r != NULL; r = next) {
        next = run_next(r);
        run_stop(r);
    }
}
