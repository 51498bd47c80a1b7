/*
 * job.h - the states of a job, and the one function that changes them.
 *
 *     queued -> starting -> running -> succeeded | failed | cancelled
 *        ^---------+-----------'        (stopped, or lost with restarts left)
 *
 * Pure: no clock, no memory, no store. The coordinator turns what happens into events,
 * feeds them in here and carries out the action that comes back.
 *
 * Two budgets: an attempt that ends by itself counts as a failure against max_restarts;
 * one that was stopped by the daemon, or that went while no daemon watched, costs nothing, nor does one whose
 * device failed: that is the host's fault, and comes once for each device, since it is avoided then.
 */
#ifndef KD_DAEMON_JOB_H
#define KD_DAEMON_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* The numbers are those of the protocol's JobState and of the store. */
typedef enum job_state {
    JOB_QUEUED,    /* waits for jobs before it, for slots, or for the next try   */
    JOB_STARTING,  /* an attempt was launched; not all of its ranks have said hello */
    JOB_RUNNING,   /* every rank of the attempt has said hello                    */
    JOB_SUCCEEDED, /* all steps done and the final model written; final           */
    JOB_FAILED,    /* given up; reason says why; final                            */
    JOB_CANCELLED, /* ended as its user asked; final                              */
    JOB_STATE_COUNT,
} job_state;

typedef enum job_event {
    JOB_EV_LAUNCH,     /* slots were given; an attempt begins                       */
    JOB_EV_RANKS_UP,   /* the last rank registered                                  */
    JOB_EV_FINISHED,   /* the attempt ended with all steps done                     */
    JOB_EV_STOPPED,    /* it ended as it was ordered to                             */
    JOB_EV_LOST,       /* it ended otherwise: counts against max_restarts           */
    JOB_EV_DEVICE,     /* it ended by a device that is avoided from now on: costs nothing */
    JOB_EV_NO_DEVICE,  /* all devices that it might have run on are avoided: the same */
    JOB_EV_GONE,       /* it was found gone when the daemon came back: costs nothing */
    JOB_EV_FAULT,      /* it ended by a fault that would come again                 */
    JOB_EV_DEPENDENCY, /* a job it comes after failed or was cancelled              */
    JOB_EV_CANCEL,     /* its user asked                                            */
    JOB_EVENT_COUNT,
} job_event;

typedef enum job_action {
    JOB_DO_NOTHING,
    JOB_DO_STOP,  /* order the running attempt to stop    */
    JOB_DO_QUEUE, /* put it back into the queue           */
    JOB_DO_WAIT,  /* keep it queued, and start it under the next daemon only */
    JOB_DO_RETRY, /* the same, after job_backoff_ms()     */
    JOB_DO_END,   /* final: release those that come after */
} job_action;

typedef struct job {
    uint64_t id;
    job_state state;
    bool cancel_asked;
    uint32_t attempts; /* launched so far                     */
    uint32_t failures; /* those that count against the budget */
    uint32_t max_restarts;
} job;

/*
 * Applies one event; KD_ERR_STATE if it is not possible in the job's state (a cancel of a job
 * that is over, say), and then nothing has changed.
 */
KD_MUST_USE kd_status job_handle(job *j, job_event event, job_action *action_out);

bool job_state_is_final(job_state state);
const char *job_state_name(job_state state);

/* How long a lost job waits before its next try: 1 s, doubled with each failure, at most 30 s. */
uint64_t job_backoff_ms(const job *j);

#endif
