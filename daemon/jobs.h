/*
 * jobs.h - every job the daemon knows, in memory: by id, by token, and as status or row.
 *
 * An entry lives as long as the table; pointers to it stay good. The job's text stays packed and is
 * unpacked where it is needed, so that a hundred thousand old jobs cost little to load.
 */
#ifndef KD_DAEMON_JOBS_H
#define KD_DAEMON_JOBS_H

#include "daemon/metrics.h"
#include "daemon/scheduler.h"
#include "daemon/store.h"
#include "proto/control.pb-c.h"

struct run;
struct watcher;

typedef struct entry {
    scheduler_item item;
    job job;
    job_state shown; /* the state that is on disk, and told to people */
    bool durable;    /* its submit is on disk: it may be shown, and run */
    char *token;     /* NULL: none */
    uint8_t *spec;
    size_t spec_bytes;
    char *name, *output, *reason;
    uint64_t steps;
    uint64_t step;
    Kd__StepMetrics *last; /* NULL until one was reported */
    uint8_t *last_packed;
    size_t last_packed_bytes;
    metrics metrics;
    double submitted_at, started_at, finished_at, test_loss, test_accuracy;
    int64_t launcher_pid;
    uint64_t launcher_start;
    uint8_t secret[ATTEMPT_SECRET_BYTES];
    uint64_t retry_at_ms;     /* on the loop's clock; 0: no backoff */
    struct run *run;          /* the live attempt, or NULL          */
    struct watcher *watchers; /* a list (watch.c)                   */
    struct entry *next_by_token;
    struct entry *next_ended; /* on the coordinator's list          */
} entry;

typedef struct job_table {
    entry **by_id; /* (n): id - 1 -> entry, or NULL for a number that was never used */
    size_t n, max;
    entry **by_token; /* (n_buckets) chains */
    size_t n_buckets, n_tokens;
} job_table;

/* Starts as {0}. */
void jobs_release(job_table *table);

entry *jobs_find(const job_table *table, uint64_t id);
entry *jobs_find_token(const job_table *table, const char *token);
uint64_t jobs_next_id(const job_table *table);

/* Copies the row into a new entry; row->job.id >= jobs_next_id(). KD_ERR_NOMEM. */
KD_MUST_USE kd_status jobs_add(job_table *table, const store_job *row, entry **entry_out);

/* A view of the entry, for the store. */
void entry_row(const entry *e, store_job *row_out);

/*
 * A view of the entry as a message, without `job`; valid until the entry changes. `status_out` is
 * not to be freed.
 */
void entry_status(const entry *e, Kd__JobStatus *status_out);

/* The job itself, unpacked; NULL without memory. The caller frees it. */
Kd__Job *entry_unpack(const entry *e);

/* Keeps a copy of `text`; an empty or NULL one clears the reason. */
KD_MUST_USE kd_status entry_set_reason(entry *e, const char *text);

/* Takes `last` over in any case. */
KD_MUST_USE kd_status entry_set_last(entry *e, Kd__StepMetrics *last);

#endif
