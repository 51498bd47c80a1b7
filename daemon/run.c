/*
 * run.c - whatever happens is told to the pure attempt first, and then run_drive() does what that wants: no
 * other place ends a process or an attempt, so every end takes the same way.
 */
#include "daemon/run.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/launch_mpirun.h"
#include "daemon/preparation.h"
#include "daemon/process.h"
#include "daemon/rank.h"
#include "job/job.h"

struct run {
    run *next;
    coordinator *co;
    entry *entry;
    attempt attempt;
    struct rank_link **links; /* (n_ranks), NULL where there is none */
    Kd__Heartbeat **heard;    /* (n_ranks), the last of each, NULL before; owned */
    preparation *preparation; /* until spawned */
    bool launched;            /* the entry's launcher_pid is that of a process */
    bool is_child;            /* its end will be told by the kernel */
    bool found_gone;          /* it ended while no daemon watched */
    bool stop_ordered;
    char mark[PATH_MAX + 64];
};

run *run_next(const run *r)
{
    return r->next;
}

entry *run_entry(const run *r)
{
    return r->entry;
}

attempt *run_attempt(run *r)
{
    return &r->attempt;
}

void run_keep_heartbeat(run *r, uint32_t rank, Kd__Heartbeat *heartbeat)
{
    kd__heartbeat__free_unpacked(r->heard[rank], NULL);
    r->heard[rank] = heartbeat;
    for (size_t i = 0; i < heartbeat->n_places; i++) {
        heartbeat->places[i]->has_rank = 1;
        heartbeat->places[i]->rank = rank;
    }
}

Kd__RankStatus **run_places(const run *r, size_t *n_out)
{
    size_t n = 0;
    for (uint32_t i = 0; i < r->attempt.n_ranks; i++) {
        n += r->heard[i] != NULL ? r->heard[i]->n_places : 0;
    }
    Kd__RankStatus **list = n > 0 ? malloc(n * sizeof(Kd__RankStatus *)) : NULL;
    *n_out = 0;
    for (uint32_t i = 0; list != NULL && i < r->attempt.n_ranks; i++) {
        for (size_t k = 0; r->heard[i] != NULL && k < r->heard[i]->n_places; k++) {
            list[(*n_out)++] = r->heard[i]->places[k];
        }
    }
    return list;
}

static uint64_t now_ms(const run *r)
{
    return uv_now(r->co->loop);
}

static void run_destroy(run *r)
{
    for (uint32_t i = 0; i < r->attempt.n_ranks; i++) {
        if (r->links[i] != NULL) {
            rank_release(r->links[i]);
        }
        kd__heartbeat__free_unpacked(r->heard[i], NULL);
    }
    free(r->heard);
    preparation_destroy(r->preparation);
    attempt_release(&r->attempt);
    free(r->links);
    free(r);
}

static void unlink_run(run *r)
{
    run **at = &r->co->runs;
    while (*at != r) {
        at = &(*at)->next;
    }
    *at = r->next;
    r->entry->run = NULL;
}

static attempt_limits limits_of(const coordinator *co, const Kd__Job *spec)
{
    const Kd__DaemonConfig *config = co->config;
    return (attempt_limits){.start_ms = 1000ull * config->start_seconds,
                            .silence_ms = config->rank_silence_ms,
                            .hang_ms = 1000ull * spec->limits->hang_timeout_seconds,
                            .grace_ms = 1000ull * config->stop_grace_seconds,
                            .kill_ms = 1000ull * config->kill_grace_seconds,
                            .leave_ms = 2000};
}

/* The entry's job counts the attempt already. */
static run *run_create(coordinator *co, entry *e, const Kd__Job *spec)
{
    const attempt_limits limits = limits_of(co, spec);
    const uint32_t n_ranks = kd_job_ranks(spec);
    run *r = calloc(1, sizeof *r);
    struct rank_link **links = calloc(n_ranks, sizeof(struct rank_link *));
    Kd__Heartbeat **heard = calloc(n_ranks, sizeof(Kd__Heartbeat *));
    if (r == NULL || links == NULL || heard == NULL ||
        attempt_init(&r->attempt, e->job.id, e->job.attempts, n_ranks, &limits, uv_now(co->loop))) {
        free(r);
        free(links);
        free(heard);
        return NULL;
    }
    memcpy(r->attempt.secret, e->secret, sizeof e->secret);
    r->attempt.step = e->step;
    r->co = co;
    r->entry = e;
    r->links = links;
    r->heard = heard;
    (void)snprintf(r->mark, sizeof r->mark, PROCESS_MARK "=%s:%" PRIu64 ":%u", co->folder,
                   e->job.id, e->job.attempts);
    r->next = co->runs;
    co->runs = r;
    e->run = r;
    e->metrics = (metrics){0};
    return r;
}

static void on_launcher_exit(void *context, int exit_status)
{
    run *r = context;
    kd_log(KD_LOG_INFO, "job %" PRIu64 ": mpirun of attempt %u ended with exit code %d",
           r->entry->job.id, r->attempt.number, exit_status);
    attempt_launcher_gone(&r->attempt, exit_status, now_ms(r));
    run_drive(r);
}

static void spawn(run *r)
{
    entry *e = r->entry;
    process_stat stat;
    kd_fault_quiet(1);
    const kd_status st = launch_mpirun(r->co->loop, preparation_launch(r->preparation),
                                       on_launcher_exit, r, &e->launcher_pid);
    kd_fault_quiet(0);
    if (st) {
        attempt_fault(&r->attempt, kd_fault_text(), false);
        attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
        return;
    }
    /* Our child is not reaped before the loop runs again, so /proc has it. */
    e->launcher_start = process_read((pid_t)e->launcher_pid, &stat) ? stat.start : 0;
    r->launched = true;
    r->is_child = true;
    coordinator_note(r->co, e, "attempt", "attempt %u: %u ranks under mpirun, process %" PRId64,
                     r->attempt.number, r->attempt.n_ranks, e->launcher_pid);
}

static void on_prepared(void *context, kd_status st, const char *fault)
{
    run *r = context;
    preparation *p = r->preparation;
    r->co->n_on_pool--;
    if (r->co->over) { /* the next daemon finds an attempt without a process, and tries again */
        return;
    }
    if (st) {
        attempt_unprepared(&r->attempt, st, fault);
        attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
    } else if (r->attempt.cause != ATTEMPT_CAUSE_NONE) { /* stopped meanwhile */
        attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
    } else {
        spawn(r);
    }
    r->preparation = NULL;
    preparation_destroy(p);
    run_drive(r);
}

/* Another attempt that writes to the same folder, or is about to; NULL if there is none. */
static const entry *find_other_writer(const run *r)
{
    for (const run *other = r->co->runs; other != NULL; other = other->next) {
        if (other != r && (other->launched || other->preparation != NULL) &&
            strcmp(other->entry->output, r->entry->output) == 0) {
            return other->entry;
        }
    }
    return NULL;
}

static void refuse_output(run *r, const entry *writer)
{
    char text[ATTEMPT_TEXT_BYTES];
    (void)snprintf(text, sizeof text,
                   "output: job %" PRIu64
                   " (%.100s) is writing to %.500s; expected a folder of its own",
                   writer->job.id, writer->name, writer->output);
    attempt_fault(&r->attempt, text, true);
    attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
    run_drive(r);
}

/* The attempt is on disk: from here on a next daemon knows what to look for. */
static void on_recorded(void *context, kd_status st)
{
    run *r = context;
    if (st || r->co->over) {
        return;
    }
    const entry *writer = find_other_writer(r);
    if (writer != NULL) {
        refuse_output(r, writer);
        return;
    }
    const preparation_place place = {.folder = r->co->folder,
                                     .worker = r->co->worker,
                                     .address = r->co->rank_address,
                                     .devices = &r->co->devices,
                                     .mark = r->mark};
    r->preparation = preparation_create(r->entry, &r->attempt, &place);
    if (r->preparation == NULL || preparation_start(r->preparation, r->co->loop, on_prepared, r)) {
        coordinator_fail(r->co);
        return;
    }
    r->co->n_on_pool++;
}

static kd_status make_secret(uint8_t *secret)
{
    const ssize_t n = getrandom(secret, ATTEMPT_SECRET_BYTES, 0);
    return n == ATTEMPT_SECRET_BYTES ? KD_OK
                                     : kd_fail(KD_ERR_IO, "no random numbers: %s", strerror(errno));
}

void run_start(coordinator *co, entry *e)
{
    Kd__Job *spec = entry_unpack(e);
    run *r = NULL;
    e->launcher_pid = 0;
    e->launcher_start = 0;
    if (spec != NULL && kd_job_complete(spec) == KD_OK && make_secret(e->secret) == KD_OK &&
        coordinator_apply(co, e, JOB_EV_LAUNCH, NULL) == KD_OK) {
        r = run_create(co, e, spec);
    }
    kd__job__free_unpacked(spec, NULL);
    if (r == NULL || store_barrier(co->store, on_recorded, r)) {
        coordinator_fail(co);
    }
}

kd_status run_adopt(coordinator *co, entry *e, const Kd__Job *spec)
{
    run *r = run_create(co, e, spec);
    if (r == NULL) {
        return KD_ERR_NOMEM;
    }
    if (e->job.state == JOB_RUNNING) {
        attempt_adopt(&r->attempt, now_ms(r));
    }
    scheduler_adopt(&co->scheduler, &e->item);
    if (e->launcher_pid ==
        0) { /* the last daemon ended between recording and spawning, or just after */
        e->launcher_pid = process_find_leader(r->mark, &e->launcher_start);
    }
    r->launched = e->launcher_pid != 0;
    if (r->launched && process_is_alive((pid_t)e->launcher_pid, e->launcher_start)) {
        kd_log(KD_LOG_INFO, "job %" PRIu64 ": attempt %u goes on under mpirun, process %" PRId64,
               e->job.id, r->attempt.number, e->launcher_pid);
        return KD_OK;
    }
    r->found_gone = true;
    attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
    return KD_OK;
}

static void log_where_it_hangs(const run *r)
{
    kd_text text = {0};
    for (uint32_t i = 0; i < r->attempt.n_ranks; i++) {
        const uint64_t pid = r->attempt.ranks[i].pid;
        if (pid > 0 && pid <= INT32_MAX) {
            kd_text_printf(&text, "rank %u:\n", i);
            process_describe((pid_t)pid, &text);
        }
    }
    kd_log(KD_LOG_WARN, "job %" PRIu64 ": attempt %u hangs after step %" PRIu64 "\n%s",
           r->entry->job.id, r->attempt.number, r->attempt.step,
           text.data != NULL ? text.data : "");
    kd_text_release(&text);
}

static void terminate(const run *r)
{
    if (r->attempt.cause == ATTEMPT_CAUSE_HANG) {
        log_where_it_hangs(r);
    }
    const entry *e = r->entry;
    if (r->launched && process_is_alive((pid_t)e->launcher_pid, e->launcher_start)) {
        (void)kill((pid_t)e->launcher_pid, SIGTERM);
    }
}

static void finish(run *r)
{
    coordinator *co = r->co;
    entry *e = r->entry;
    char reason[ATTEMPT_TEXT_BYTES];
    job_event event = attempt_verdict(&r->attempt, reason, sizeof reason);
    if (event == JOB_EV_LOST && r->found_gone) {
        event = JOB_EV_GONE;
        (void)snprintf(reason, sizeof reason, "attempt %u ended while the daemon was down",
                       r->attempt.number);
    }
    if (event == JOB_EV_FINISHED && r->attempt.exit_status > 0) {
        coordinator_note(co, e, "attempt",
                         "attempt %u: mpirun ended with exit code %d, after all was done",
                         r->attempt.number, r->attempt.exit_status);
    }
    unlink_run(r);
    run_destroy(r);
    e->launcher_pid = 0;
    e->launcher_start = 0;
    KD_CHECK(coordinator_apply(co, e, event, reason) == KD_OK);
    coordinator_schedule(co);
}

void run_drive(run *r)
{
    for (;;) {
        switch (attempt_next(&r->attempt, now_ms(r))) {
        case ATTEMPT_DO_NOTHING:
            if (r->entry->job.state == JOB_STARTING && attempt_all_up(&r->attempt)) {
                KD_CHECK(coordinator_apply(r->co, r->entry, JOB_EV_RANKS_UP, NULL) == KD_OK);
            }
            return;
        case ATTEMPT_DO_ORDER_STOP:
            r->stop_ordered = true;
            if (r->links[0] != NULL) {
                rank_order_stop(r->links[0]);
            }
            break;
        case ATTEMPT_DO_TERMINATE:
            terminate(r);
            break;
        case ATTEMPT_DO_KILL:
            (void)process_signal_marked(r->mark, SIGKILL);
            break;
        case ATTEMPT_DO_SWEEP:
            attempt_swept(&r->attempt, process_signal_marked(r->mark, SIGKILL), now_ms(r));
            break;
        case ATTEMPT_DO_END:
            finish(r);
            return;
        }
    }
}

void run_stop(run *r)
{
    attempt_stop(&r->attempt, now_ms(r));
    run_drive(r);
}

static void tick(run *r)
{
    const entry *e = r->entry;
    uint32_t rank;
    if (r->launched && !r->is_child &&
        !process_is_alive((pid_t)e->launcher_pid, e->launcher_start)) {
        attempt_launcher_gone(&r->attempt, ATTEMPT_EXIT_UNKNOWN, now_ms(r));
    }
    while (attempt_find_silent(&r->attempt, now_ms(r), &rank)) {
        coordinator_note(r->co, r->entry, "fault", "rank %u has been silent for %" PRIu64 " s",
                         rank, r->attempt.limits.silence_ms / 1000);
    }
    run_drive(r);
}

void run_tick_all(coordinator *co)
{
    for (run *r = co->runs, *next; r != NULL; r = next) {
        next = r->next;
        tick(r);
    }
}

void run_abandon_all(coordinator *co)
{
    while (co->runs != NULL) {
        run *r = co->runs;
        co->runs = r->next;
        r->entry->run = NULL;
        run_destroy(r);
    }
}

kd_status run_register(run *r, const attempt_claim *claim, struct rank_link *link)
{
    const kd_status st = attempt_register(&r->attempt, claim, now_ms(r));
    if (st) {
        return st;
    }
    if (r->links[claim->rank] != NULL) { /* silent for long; this one takes its place */
        rank_release(r->links[claim->rank]);
    }
    r->links[claim->rank] = link;
    return KD_OK;
}

bool run_is_told_to_stop(const run *r)
{
    return r->stop_ordered;
}

void run_unregister(run *r, uint32_t rank, struct rank_link *link)
{
    if (r->links[rank] == link) {
        r->links[rank] = NULL;
        attempt_disconnect(&r->attempt, rank);
    }
}
