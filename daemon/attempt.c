/*
 * attempt.c - one state, and for each a deadline and an action, in attempt_next(). It has no processes and
 * no clock, so every order of events can be tried in a test, also those that no machine shows twice.
 */
#include "daemon/attempt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const bool allowed[ATTEMPT_STATE_COUNT][ATTEMPT_STATE_COUNT] = {
    [ATTEMPT_GATHERING] =
        {[ATTEMPT_WORKING] = true, [ATTEMPT_TERMINATING] = true, [ATTEMPT_SWEEPING] = true},
    [ATTEMPT_WORKING] =
        {[ATTEMPT_STOPPING] = true, [ATTEMPT_TERMINATING] = true, [ATTEMPT_SWEEPING] = true},
    [ATTEMPT_STOPPING] = {[ATTEMPT_TERMINATING] = true, [ATTEMPT_SWEEPING] = true},
    [ATTEMPT_TERMINATING] = {[ATTEMPT_KILLING] = true, [ATTEMPT_SWEEPING] = true},
    [ATTEMPT_KILLING] = {[ATTEMPT_KILLING] = true, [ATTEMPT_SWEEPING] = true},
    [ATTEMPT_SWEEPING] = {[ATTEMPT_SWEEPING] = true, [ATTEMPT_OVER] = true},
    [ATTEMPT_OVER] = {0},
};

/* The only writer of a->state. */
static void enter(attempt *a, attempt_state next, uint64_t now_ms)
{
    KD_CHECK(allowed[a->state][next]);
    a->state = next;
    a->entered_at_ms = now_ms;
}

kd_status attempt_init(attempt *a,
                       uint64_t job_id,
                       uint32_t number,
                       uint32_t n_ranks,
                       const attempt_limits *limits,
                       uint64_t now_ms)
{
    KD_CHECK(n_ranks > 0);
    attempt_rank *ranks = calloc(n_ranks, sizeof *ranks);
    if (ranks == NULL) {
        return kd_fail(KD_ERR_NOMEM, "job %" PRIu64 ": no memory for %u ranks", job_id, n_ranks);
    }
    *a = (attempt){.job_id = job_id,
                   .number = number,
                   .limits = *limits,
                   .state = ATTEMPT_GATHERING,
                   .n_ranks = n_ranks,
                   .ranks = ranks,
                   .entered_at_ms = now_ms,
                   .progress_at_ms = now_ms,
                   .exit_status = ATTEMPT_EXIT_UNKNOWN};
    return KD_OK;
}

void attempt_release(attempt *a)
{
    free(a->ranks);
    *a = (attempt){0};
}

void attempt_adopt(attempt *a, uint64_t now_ms)
{
    a->was_working = true;
    enter(a, ATTEMPT_WORKING, now_ms);
}

/* Takes the same time whatever the bytes are. */
static bool secret_is(const attempt *a, const uint8_t *secret, size_t n_bytes)
{
    if (n_bytes != sizeof a->secret) {
        return false;
    }
    unsigned difference = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        difference |= (unsigned)(a->secret[i] ^ secret[i]);
    }
    return difference == 0;
}

static kd_status claim_check(const attempt *a, const attempt_claim *claim)
{
    if (claim->job_id != a->job_id || claim->attempt != a->number) {
        return kd_fail(KD_ERR_INVALID,
                       "rank hello: found job %" PRIu64 " attempt %u, expected job %" PRIu64
                       " attempt %u",
                       claim->job_id, claim->attempt, a->job_id, a->number);
    }
    if (!secret_is(a, claim->secret, claim->secret_bytes)) {
        return kd_fail(KD_ERR_INVALID, "rank hello of job %" PRIu64 ": the secret is wrong",
                       a->job_id);
    }
    if (claim->world_size != a->n_ranks || claim->rank >= a->n_ranks) {
        return kd_fail(KD_ERR_INVALID,
                       "rank hello of job %" PRIu64
                       ": found rank %u of %u, expected one of %u ranks",
                       a->job_id, claim->rank, claim->world_size, a->n_ranks);
    }
    return KD_OK;
}

static bool rank_is_heard(const attempt *a, const attempt_rank *rank, uint64_t now_ms)
{
    return rank->connected && now_ms - rank->heard_at_ms <= a->limits.silence_ms;
}

kd_status attempt_register(attempt *a, const attempt_claim *claim, uint64_t now_ms)
{
    const kd_status st = claim_check(a, claim);
    if (st) {
        return st;
    }
    attempt_rank *rank = &a->ranks[claim->rank];
    if (a->state == ATTEMPT_OVER) {
        return kd_fail(KD_ERR_STATE, "rank hello of job %" PRIu64 ": attempt %u is over", a->job_id,
                       a->number);
    }
    if (rank_is_heard(a, rank, now_ms) && rank->pid != claim->pid) {
        return kd_fail(KD_ERR_STATE, "rank hello of job %" PRIu64 ": rank %u is connected already",
                       a->job_id, claim->rank);
    }
    a->n_registered += !rank->registered;
    a->n_connected += !rank->connected;
    *rank = (attempt_rank){.registered = true,
                           .connected = true,
                           .heard_at_ms = now_ms,
                           .pid = claim->pid,
                           .work = rank->work}; /* to come back is no progress */
    return KD_OK;
}

void attempt_disconnect(attempt *a, uint32_t rank)
{
    KD_CHECK(rank < a->n_ranks);
    a->n_connected -= a->ranks[rank].connected;
    a->ranks[rank].connected = false;
}

void attempt_heartbeat(attempt *a, uint32_t rank, uint64_t step, uint64_t work, uint64_t now_ms)
{
    KD_CHECK(rank < a->n_ranks);
    attempt_rank *r = &a->ranks[rank];
    r->heard_at_ms = now_ms;
    r->told_silent = false;
    if (step > a->step || work > r->work) {
        a->progress_at_ms = now_ms;
    }
    a->step = step > a->step ? step : a->step;
    r->work = work > r->work ? work : r->work;
}

void attempt_progress(attempt *a, uint64_t now_ms)
{
    a->progress_at_ms = now_ms;
}

void attempt_fault(attempt *a, const char *text, bool permanent)
{
    if (a->fault[0] != '\0' && (a->fault_permanent || !permanent)) {
        return; /* what follows the first fault is mostly its echo on other ranks */
    }
    a->fault_permanent = permanent;
    (void)snprintf(a->fault, sizeof a->fault, "%s", text[0] != '\0' ? text : "a rank failed");
}

void attempt_device_failed(attempt *a)
{
    a->device_failed = true;
}

void attempt_no_device(attempt *a)
{
    a->no_device = true;
}

void attempt_unprepared(attempt *a, kd_status st, const char *text)
{
    attempt_fault(a, text, st == KD_ERR_INVALID);
}

void attempt_finished(attempt *a, attempt_outcome outcome)
{
    a->outcome = outcome;
}

void attempt_launcher_gone(attempt *a, int exit_status, uint64_t now_ms)
{
    if (a->state == ATTEMPT_SWEEPING || a->state == ATTEMPT_OVER) {
        return;
    }
    a->exit_status = exit_status;
    enter(a, ATTEMPT_SWEEPING, now_ms);
}

/* An attempt whose ranks never met has nothing to save: it is not asked, but told. */
void attempt_stop(attempt *a, uint64_t now_ms)
{
    if (a->state == ATTEMPT_GATHERING || a->state == ATTEMPT_WORKING) {
        a->cause = ATTEMPT_CAUSE_ORDERED;
        a->progress_at_ms = now_ms;
    }
}

void attempt_swept(attempt *a, size_t n_found, uint64_t now_ms)
{
    KD_CHECK(a->state == ATTEMPT_SWEEPING);
    a->was_swept = true;
    for (uint32_t i = 0; n_found == 0 && i < a->n_ranks; i++) {
        if (rank_is_heard(a, &a->ranks[i], now_ms)) {
            n_found = 1;
        }
    }
    if (n_found == 0) {
        enter(a, ATTEMPT_OVER, now_ms);
    } else {
        enter(a, ATTEMPT_SWEEPING, now_ms);
    }
}

static attempt_action escalate(attempt *a, attempt_cause cause, uint64_t now_ms)
{
    a->cause = cause;
    enter(a, ATTEMPT_TERMINATING, now_ms);
    return ATTEMPT_DO_TERMINATE;
}

static attempt_action next_gathering(attempt *a, uint64_t now_ms)
{
    if (a->cause == ATTEMPT_CAUSE_ORDERED) {
        return escalate(a, ATTEMPT_CAUSE_ORDERED, now_ms);
    }
    if (a->n_registered == a->n_ranks) {
        a->was_working = true;
        a->progress_at_ms = now_ms;
        enter(a, ATTEMPT_WORKING, now_ms);
        return ATTEMPT_DO_NOTHING;
    }
    if (now_ms - a->entered_at_ms > a->limits.start_ms) {
        return escalate(a, ATTEMPT_CAUSE_NO_SHOW, now_ms);
    }
    return ATTEMPT_DO_NOTHING;
}

static attempt_action next_working(attempt *a, uint64_t now_ms)
{
    if (a->cause == ATTEMPT_CAUSE_ORDERED) {
        enter(a, ATTEMPT_STOPPING, now_ms);
        return ATTEMPT_DO_ORDER_STOP;
    }
    if (a->limits.hang_ms > 0 && now_ms - a->progress_at_ms > a->limits.hang_ms) {
        return escalate(a, ATTEMPT_CAUSE_HANG, now_ms);
    }
    return ATTEMPT_DO_NOTHING;
}

/* The first sweep waits for ranks that are still saying goodbye, a later one for the last to work. */
static attempt_action next_sweeping(attempt *a, uint64_t now_ms)
{
    const uint64_t between_sweeps_ms = 100;
    const uint64_t waited_ms = now_ms - a->entered_at_ms;
    const bool due = a->was_swept ? waited_ms >= between_sweeps_ms
                                  : a->n_connected == 0 || waited_ms >= a->limits.leave_ms;
    return due ? ATTEMPT_DO_SWEEP : ATTEMPT_DO_NOTHING;
}

attempt_action attempt_next(attempt *a, uint64_t now_ms)
{
    const uint64_t waited_ms = now_ms - a->entered_at_ms;
    switch (a->state) {
    case ATTEMPT_GATHERING:
        return next_gathering(a, now_ms);
    case ATTEMPT_WORKING:
        return next_working(a, now_ms);
    case ATTEMPT_STOPPING:
        return waited_ms > a->limits.grace_ms ? escalate(a, a->cause, now_ms) : ATTEMPT_DO_NOTHING;
    case ATTEMPT_TERMINATING:
    case ATTEMPT_KILLING:
        if (waited_ms <= a->limits.kill_ms) {
            return ATTEMPT_DO_NOTHING;
        }
        enter(a, ATTEMPT_KILLING, now_ms);
        return ATTEMPT_DO_KILL;
    case ATTEMPT_SWEEPING:
        return next_sweeping(a, now_ms);
    case ATTEMPT_OVER:
        return ATTEMPT_DO_END;
    case ATTEMPT_STATE_COUNT:
        break;
    }
    KD_CHECK(!"a state of attempt_state");
    return ATTEMPT_DO_NOTHING;
}

bool attempt_find_silent(attempt *a, uint64_t now_ms, uint32_t *rank_out)
{
    for (uint32_t i = 0; i < a->n_ranks; i++) {
        attempt_rank *rank = &a->ranks[i];
        if (rank->registered && !rank->told_silent &&
            now_ms - rank->heard_at_ms > a->limits.silence_ms) {
            rank->told_silent = true;
            *rank_out = i;
            return true;
        }
    }
    return false;
}

static void say_exit(const attempt *a, char *reason, size_t reason_bytes)
{
    if (a->exit_status == ATTEMPT_EXIT_UNKNOWN) {
        (void)snprintf(reason, reason_bytes, "attempt %u ended before the job was done", a->number);
    } else if (a->exit_status > 128) {
        (void)snprintf(reason, reason_bytes, "attempt %u ended with exit code %d (signal %d: %s)",
                       a->number, a->exit_status, a->exit_status - 128,
                       strsignal(a->exit_status - 128));
    } else {
        (void)snprintf(reason, reason_bytes, "attempt %u ended with exit code %d", a->number,
                       a->exit_status);
    }
}

static void say_why_lost(const attempt *a, char *reason, size_t reason_bytes)
{
    switch (a->cause) {
    case ATTEMPT_CAUSE_HANG:
        (void)snprintf(reason, reason_bytes,
                       "attempt %u hung: no progress after step %" PRIu64 " within %" PRIu64 " s",
                       a->number, a->step, a->limits.hang_ms / 1000);
        return;
    case ATTEMPT_CAUSE_NO_SHOW:
        (void)snprintf(reason, reason_bytes,
                       "attempt %u: %u of %u ranks said hello within %" PRIu64 " s", a->number,
                       a->n_registered, a->n_ranks, a->limits.start_ms / 1000);
        return;
    case ATTEMPT_CAUSE_NONE:
    case ATTEMPT_CAUSE_ORDERED:
        break;
    }
    if (a->fault[0] != '\0') {
        (void)snprintf(reason, reason_bytes, "%s", a->fault);
        return;
    }
    say_exit(a, reason, reason_bytes);
}

job_event attempt_verdict(const attempt *a, char *reason, size_t reason_bytes)
{
    reason[0] = '\0';
    if (a->outcome == ATTEMPT_COMPLETED) { /* final/ is on disk, however its ranks ended then */
        return JOB_EV_FINISHED;
    }
    if (a->fault_permanent) {
        (void)snprintf(reason, reason_bytes, "%s", a->fault);
        return JOB_EV_FAULT;
    }
    if (a->outcome == ATTEMPT_STOPPED || a->cause == ATTEMPT_CAUSE_ORDERED) {
        return JOB_EV_STOPPED;
    }
    say_why_lost(a, reason, reason_bytes);
    if (a->no_device) {
        return JOB_EV_NO_DEVICE;
    }
    return a->device_failed ? JOB_EV_DEVICE : JOB_EV_LOST;
}

bool attempt_all_up(const attempt *a)
{
    return a->n_registered == a->n_ranks;
}
