/*
 * attempt.h - one launch of a job: who has registered, who is alive, when it is over.
 *
 *     gathering -> working -> stopping -> terminating -> killing
 *          '----------'----------'------------'------------'----> sweeping -> over
 *
 * Pure: time comes in as milliseconds of one monotonic clock, actions go out; the coordinator
 * owns processes, sockets and the store. Only the rank table is memory of its own.
 *
 * Unknown never means dead. A rank that is silent, or whose connection broke, is waited for as
 * long as the launcher may live; the attempt is over only when the launcher is known to be gone,
 * no rank is heard, and a sweep of the machine found none of its processes. So two attempts of a
 * job never write at once. What ends an attempt that merely stands still is the hang deadline.
 */
#ifndef KD_DAEMON_ATTEMPT_H
#define KD_DAEMON_ATTEMPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "daemon/job.h"

#define ATTEMPT_SECRET_BYTES 32
#define ATTEMPT_TEXT_BYTES   1024
#define ATTEMPT_EXIT_UNKNOWN (-1) /* the launcher was not our child */

typedef enum attempt_state {
    ATTEMPT_GATHERING,   /* launched; deadline start_ms for every rank to register      */
    ATTEMPT_WORKING,     /* every rank has registered; deadline hang_ms between signs of progress */
    ATTEMPT_STOPPING,    /* the leader was ordered to save and end; deadline grace_ms   */
    ATTEMPT_TERMINATING, /* SIGTERM was sent to the launcher; deadline kill_ms          */
    ATTEMPT_KILLING,     /* SIGKILL was sent; sent again every kill_ms                  */
    ATTEMPT_SWEEPING,    /* the launcher is gone; deadline leave_ms for ranks to leave  */
    ATTEMPT_OVER,        /* nothing of it is left                                       */
    ATTEMPT_STATE_COUNT,
} attempt_state;

/* Why an attempt is being ended; none if it ends by itself. */
typedef enum attempt_cause {
    ATTEMPT_CAUSE_NONE,
    ATTEMPT_CAUSE_ORDERED, /* cancel, or the daemon stops              */
    ATTEMPT_CAUSE_HANG,    /* no sign of progress within hang_ms       */
    ATTEMPT_CAUSE_NO_SHOW, /* not every rank registered within start_ms */
} attempt_cause;

typedef enum attempt_outcome {
    ATTEMPT_UNFINISHED, /* the leader has not said its last word      */
    ATTEMPT_COMPLETED,  /* all steps done, final model written        */
    ATTEMPT_STOPPED,    /* ended after a checkpoint, before the end   */
} attempt_outcome;

typedef enum attempt_action {
    ATTEMPT_DO_NOTHING,
    ATTEMPT_DO_ORDER_STOP, /* send the leader the order to stop, now and when it reconnects */
    ATTEMPT_DO_TERMINATE,  /* SIGTERM to the launcher                                        */
    ATTEMPT_DO_KILL,       /* SIGKILL to every process of the attempt                        */
    ATTEMPT_DO_SWEEP,      /* the same, then tell attempt_swept() how many were found        */
    ATTEMPT_DO_END,        /* over: attempt_verdict() says how                               */
} attempt_action;

typedef struct attempt_limits {
    uint64_t start_ms;   /* launch to last registration                     */
    uint64_t silence_ms; /* without a heartbeat a rank counts as silent      */
    uint64_t hang_ms;    /* 0: never                                         */
    uint64_t grace_ms;   /* STOP to SIGTERM                                  */
    uint64_t kill_ms;    /* SIGTERM to SIGKILL, and between SIGKILLs         */
    uint64_t leave_ms;   /* launcher gone to first sweep, while ranks are heard */
} attempt_limits;

typedef struct attempt_rank {
    bool registered; /* at least once                    */
    bool connected;
    bool told_silent; /* its silence was reported already */
    uint64_t heard_at_ms;
    uint64_t pid;
    uint64_t work; /* the last count heard */
} attempt_rank;

/* What a rank claims to be; bytes from a peer. */
typedef struct attempt_claim {
    uint64_t job_id;
    uint32_t attempt, rank, world_size;
    const uint8_t *secret;
    size_t secret_bytes;
    uint64_t pid;
} attempt_claim;

typedef struct attempt {
    uint64_t job_id;
    uint32_t number;
    uint8_t secret[ATTEMPT_SECRET_BYTES];
    attempt_limits limits;
    attempt_state state;
    attempt_cause cause;
    attempt_outcome outcome;
    bool was_working; /* every rank has been up at least once */
    bool was_swept;
    bool fault_permanent;
    bool device_failed;             /* a device, which later attempts avoid */
    bool no_device;                 /* a rank found none that is not avoided */
    char fault[ATTEMPT_TEXT_BYTES]; /* the first reported; a permanent one replaces a passing one */
    uint32_t n_ranks, n_registered, n_connected;
    attempt_rank *ranks;     /* (n_ranks) */
    uint64_t entered_at_ms;  /* the current state */
    uint64_t progress_at_ms; /* the last sign of progress */
    uint64_t step;           /* last one finished */
    int exit_status;         /* of the launcher; 128 + n if signal n killed it */
} attempt;

KD_MUST_USE kd_status attempt_init(attempt *a,
                                   uint64_t job_id,
                                   uint32_t number,
                                   uint32_t n_ranks,
                                   const attempt_limits *limits,
                                   uint64_t now_ms);
void attempt_release(attempt *a);

/* It runs since before this daemon did, and its ranks were all up already: they are waited for. */
void attempt_adopt(attempt *a, uint64_t now_ms);

/*
 * A rank says hello. KD_ERR_INVALID if it is none of this attempt's, KD_ERR_STATE if another process
 * has a live connection as that rank or the attempt is over; the fault text is the answer.
 */
KD_MUST_USE kd_status attempt_register(attempt *a, const attempt_claim *claim, uint64_t now_ms);
void attempt_disconnect(attempt *a, uint32_t rank);

/*
 * `step` is the last one that a registered rank finished, `work` its count of what it did. If either
 * grew it gets on; one rank that does is enough, since the others may have to wait for it.
 */
void attempt_heartbeat(attempt *a, uint32_t rank, uint64_t step, uint64_t work, uint64_t now_ms);
/* A checkpoint, an evaluation: alive and getting on, though the step stands. */
void attempt_progress(attempt *a, uint64_t now_ms);
void attempt_fault(attempt *a, const char *text, bool permanent);
/* Nothing was launched. Files that do not suit would be refused again; a host short of space may not. */
void attempt_unprepared(attempt *a, kd_status st, const char *text);
/* A device failed that later attempts will not have, or there was none that is not avoided: the host's fault. */
void attempt_device_failed(attempt *a);
void attempt_no_device(attempt *a);
void attempt_finished(attempt *a, attempt_outcome outcome);

/* The launcher is known to be gone. */
void attempt_launcher_gone(attempt *a, int exit_status, uint64_t now_ms);

/* Cancel, or the daemon stops: begins the escalation unless one has begun. */
void attempt_stop(attempt *a, uint64_t now_ms);
/* How many processes of the attempt the last sweep found alive. */
void attempt_swept(attempt *a, size_t n_found, uint64_t now_ms);

/*
 * Called on every event and every tick until it answers ATTEMPT_DO_NOTHING: at most one action
 * a call. ATTEMPT_DO_END is the last and comes once.
 */
attempt_action attempt_next(attempt *a, uint64_t now_ms);

/* True once for each silence of a rank: its number is in *rank_out. */
bool attempt_find_silent(attempt *a, uint64_t now_ms, uint32_t *rank_out);

/* The event for the job, and the reason for people (empty if there is nothing to say). */
job_event attempt_verdict(const attempt *a, char *reason, size_t reason_bytes);

bool attempt_all_up(const attempt *a);

#endif
