/*
 * store.h - what the daemon must not forget: jobs, their history, their steps.
 *
 * One SQLite file, DIR/jobs.db (WAL, synchronous=FULL), written by a thread of its own. The loop
 * queues requests and never waits; the thread takes all that is queued, executes it in order in one
 * transaction and commits: one fsync serves many. Only then do the callbacks run, on the loop, in
 * order. So a callback with KD_OK means: on disk, and with it all that was queued before.
 *
 * Callbacks (store_done, store_events_done, store_steps_done): if the function returned KD_OK, exactly
 * once and never before it returned; if it returned an error (only KD_ERR_NOMEM), never. NULL is fine.
 *
 * If a commit fails nothing is ever written again: every callback gets KD_ERR_IO, and on_failed is
 * called once. The daemon then acknowledges no more and exits.
 *
 * Threads: all functions on the loop's thread. store_open(), store_load() and store_close() block on
 * the disk, the others do not. What is passed in is copied; what a callback gets is valid until it
 * returns.
 */
#ifndef KD_DAEMON_STORE_H
#define KD_DAEMON_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/status.h"
#include "daemon/attempt.h"
#include "daemon/job.h"

#define STORE_SCHEMA_VERSION 1

typedef struct store store;

/* A job's row. Below `token` to `steps` are fixed at submit, the rest changes. Times are seconds since 1970. */
typedef struct store_job {
    job job;
    const char *token;   /* NULL: none */
    const uint8_t *spec; /* the packed, completed Job */
    size_t spec_bytes;
    const char *name, *output;
    uint64_t steps;

    const char *reason;
    uint64_t step;
    const uint8_t *last_step; /* packed StepMetrics of the last one reported */
    size_t last_step_bytes;
    double submitted_at, started_at, finished_at; /* 0: not yet */
    double test_loss, test_accuracy;              /* NaN: not evaluated */
    int64_t launcher_pid;                         /* 0: none, or not known yet */
    uint64_t launcher_start;                      /* clock ticks after boot, as /proc says */
    uint8_t secret[ATTEMPT_SECRET_BYTES];
} store_job;

typedef struct store_event {
    uint64_t seq; /* grows by one over the whole daemon */
    uint64_t job_id;
    double time;
    const char *kind; /* submitted, state, attempt, checkpoint, evaluation, fault */
    const char *text;
    job_state state;
} store_event;

/* One packed StepMetrics. */
typedef struct store_step {
    uint64_t step;
    const uint8_t *bytes;
    size_t n_bytes;
} store_step;

typedef void (*store_done)(void *context, kd_status st);
typedef void (*store_events_done)(void *context, kd_status st, const store_event *events, size_t n);
typedef void (*store_steps_done)(void *context, kd_status st, const store_step *steps, size_t n);

/*
 * Opens DIR/jobs.db, makes it if there is none. KD_ERR_INVALID if a newer distilld wrote it,
 * KD_ERR_PROTO if it is no database of ours, KD_ERR_IO otherwise.
 */
KD_MUST_USE kd_status store_open(uv_loop_t *loop,
                                 const char *folder,
                                 void (*on_failed)(void *context),
                                 void *context,
                                 store **store_out);

/*
 * Every job by ascending id, and the number of the last event. For those starting or running
 * `step` and `last_step` are the newest that reached the disk. Once, before any request; stops at the
 * first visit that returns an error.
 */
KD_MUST_USE kd_status store_load(store *s,
                                 kd_status (*visit)(void *context, const store_job *row),
                                 void *context,
                                 uint64_t *last_seq_out);

/* A new job and its first event. */
KD_MUST_USE kd_status store_insert_job(store *s,
                                       const store_job *row,
                                       const store_event *event,
                                       store_done done,
                                       void *context);
/* The part of the row that changes, and the event that says why (NULL: none). */
KD_MUST_USE kd_status store_update_job(store *s,
                                       const store_job *row,
                                       const store_event *event,
                                       store_done done,
                                       void *context);
/* In no hurry: waits up to STORE_LAZY_MS for other requests to share a commit with. */
KD_MUST_USE kd_status store_put_step(store *s, uint64_t job_id, const store_step *step);
#define STORE_LAZY_MS 200

/* Nothing; its callback says that all that was queued before is on disk. */
KD_MUST_USE kd_status store_barrier(store *s, store_done done, void *context);

/* The first `limit` events of a job with seq > after_seq; steps with step >= from_step. */
KD_MUST_USE kd_status store_read_events(store *s,
                                        uint64_t job_id,
                                        uint64_t after_seq,
                                        size_t limit,
                                        store_events_done done,
                                        void *context);
KD_MUST_USE kd_status store_read_steps(store *s,
                                       uint64_t job_id,
                                       uint64_t from_step,
                                       size_t limit,
                                       store_steps_done done,
                                       void *context);

/*
 * Commits what is queued, runs the callbacks that are left, joins the thread. The loop has to run
 * once more for the memory to be freed. NULL is fine.
 */
void store_close(store *s);

#endif
