/*
 * job.c - the table says what an event may do; decide() lays the user's wish and the budget over it. Two
 * places, because the table can be read and tested whole.
 */
#include "daemon/job.h"

/* What an event leads to, once the job's budget and its user's wish are taken into account. */
typedef struct transition {
    bool allowed;
    job_state next;
    job_action action;
} transition;

#define TO(next, action)                                                                           \
    {                                                                                              \
        true, next, action                                                                         \
    }

static const transition table[JOB_STATE_COUNT][JOB_EVENT_COUNT] = {
    [JOB_QUEUED] =
        {
            [JOB_EV_LAUNCH] = TO(JOB_STARTING, JOB_DO_NOTHING),
            [JOB_EV_DEPENDENCY] = TO(JOB_FAILED, JOB_DO_END),
            [JOB_EV_CANCEL] = TO(JOB_CANCELLED, JOB_DO_END),
        },
    [JOB_STARTING] =
        {
            [JOB_EV_RANKS_UP] = TO(JOB_RUNNING, JOB_DO_NOTHING),
            [JOB_EV_FINISHED] = TO(JOB_SUCCEEDED, JOB_DO_END),
            [JOB_EV_STOPPED] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_LOST] = TO(JOB_QUEUED, JOB_DO_RETRY),
            [JOB_EV_DEVICE] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_NO_DEVICE] = TO(JOB_QUEUED, JOB_DO_WAIT),
            [JOB_EV_GONE] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_FAULT] = TO(JOB_FAILED, JOB_DO_END),
            [JOB_EV_CANCEL] = TO(JOB_STARTING, JOB_DO_STOP),
        },
    [JOB_RUNNING] =
        {
            [JOB_EV_FINISHED] = TO(JOB_SUCCEEDED, JOB_DO_END),
            [JOB_EV_STOPPED] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_LOST] = TO(JOB_QUEUED, JOB_DO_RETRY),
            [JOB_EV_DEVICE] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_NO_DEVICE] = TO(JOB_QUEUED, JOB_DO_WAIT),
            [JOB_EV_GONE] = TO(JOB_QUEUED, JOB_DO_QUEUE),
            [JOB_EV_FAULT] = TO(JOB_FAILED, JOB_DO_END),
            [JOB_EV_CANCEL] = TO(JOB_RUNNING, JOB_DO_STOP),
        },
    [JOB_SUCCEEDED] = {{0}},
    [JOB_FAILED] = {{0}},
    [JOB_CANCELLED] = {{0}},
};

static const transition give_up = TO(JOB_FAILED, JOB_DO_END);
static const transition as_asked = TO(JOB_CANCELLED, JOB_DO_END);

/* A job that would go back to the queue ends instead if its user or its budget says so. */
static transition decide(const job *j, job_event event)
{
    const transition t = table[j->state][event];
    const bool attempt_over = t.allowed && event != JOB_EV_LAUNCH && event != JOB_EV_RANKS_UP &&
                              event != JOB_EV_CANCEL && event != JOB_EV_DEPENDENCY;
    if (!attempt_over || event == JOB_EV_FINISHED) {
        return t;
    }
    if (j->cancel_asked) {
        return as_asked;
    }
    return event == JOB_EV_LOST && j->failures >= j->max_restarts ? give_up : t;
}

/* The only writer of a job's state. */
kd_status job_handle(job *j, job_event event, job_action *action_out)
{
    KD_CHECK(j->state < JOB_STATE_COUNT && event < JOB_EVENT_COUNT);
    const transition t = decide(j, event);
    if (!t.allowed) {
        return KD_ERR_STATE;
    }
    j->state = t.next;
    j->attempts += event == JOB_EV_LAUNCH;
    j->failures += event == JOB_EV_LOST && t.next != JOB_CANCELLED;
    j->cancel_asked = j->cancel_asked || event == JOB_EV_CANCEL;
    *action_out = t.action;
    return KD_OK;
}

bool job_state_is_final(job_state state)
{
    return state == JOB_SUCCEEDED || state == JOB_FAILED || state == JOB_CANCELLED;
}

const char *job_state_name(job_state state)
{
    static const char *const names[] = {
        [JOB_QUEUED] = "queued",       [JOB_STARTING] = "starting", [JOB_RUNNING] = "running",
        [JOB_SUCCEEDED] = "succeeded", [JOB_FAILED] = "failed",     [JOB_CANCELLED] = "cancelled",
    };
    _Static_assert(sizeof names / sizeof *names == JOB_STATE_COUNT, "name every state");
    KD_CHECK(state < JOB_STATE_COUNT);
    return names[state];
}

uint64_t job_backoff_ms(const job *j)
{
    const uint64_t longest_ms = 30000;
    uint64_t wait_ms = 1000;
    for (uint32_t i = 1; i < j->failures && wait_ms < longest_ms; i++) {
        wait_ms *= 2;
    }
    return wait_ms < longest_ms ? wait_ms : longest_ms;
}
