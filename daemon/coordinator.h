/*
 * coordinator.h - carries out what the pure parts decide: owns the jobs, the store, the scheduler
 * and the live attempts, on one loop.
 *
 * A change of a job goes one way: an event into job_handle(), the row and one event into the store,
 * and, once that is on disk, the event to the watchers. What it means for slots and for other jobs is
 * done at once in memory; nothing of that shows outside before its own commit, since commits keep
 * their order.
 *
 * Threads: the loop's. Nothing blocks but where recovery.c says so.
 */
#ifndef KD_DAEMON_COORDINATOR_H
#define KD_DAEMON_COORDINATOR_H

#include <uv.h>

#include "daemon/devices.h"
#include "daemon/jobs.h"
#include "proto/daemon.pb-c.h"
#include "wire/address.h"

#define DAEMON_PROGRAM "distilld " KD_VERSION

typedef enum coordinator_end {
    COORDINATOR_STOPPED,      /* as asked: no attempt is left, all is on disk */
    COORDINATOR_STORE_FAILED, /* nothing may be acknowledged any more         */
} coordinator_end;

typedef struct coordinator {
    uv_loop_t *loop;
    const Kd__DaemonConfig *config; /* filled in */
    const char *folder;             /* real path */
    const char *worker;             /* path of distill-worker */
    char rank_address[KD_ADDRESS_TEXT_MAX];
    void (*on_end)(void *context, coordinator_end end); /* once */
    void *context;

    store *store;
    scheduler scheduler;
    devices devices;
    job_table jobs;
    uint64_t last_seq;
    struct run *runs;  /* live attempts */
    size_t n_retrying; /* entries with retry_at_ms */
    uint64_t next_retry_ms;
    entry *ended; /* final, and those that come after them not told yet */
    bool telling_followers;
    bool stopping;      /* no attempt is started any more            */
    bool settling;      /* the last has ended; the store writes that */
    bool over;          /* on_end was called                         */
    uint32_t n_on_pool; /* requests on pool threads, which hold what is to be freed */
    uv_timer_t tick;
} coordinator;

/*
 * Fields up to `context` are the caller's to set. Opens the store, loads every job and takes up the
 * attempts that live on; blocks on the disk (recovery.c). On success coordinator_close() follows.
 */
KD_MUST_USE kd_status coordinator_open(coordinator *co);
/*
 * Waits for pool threads and for the store, runs what callbacks are left; connections are closed
 * before. The loop has to run once more afterwards; then coordinator_release().
 */
void coordinator_close(coordinator *co);
void coordinator_release(coordinator *co);

/* Starts what can be started, and the clock that watches attempts. Once listeners are up. */
KD_MUST_USE kd_status coordinator_start(coordinator *co);

/* Orders every attempt to save and end; on_end comes when the last has. */
void coordinator_stop(coordinator *co);
/* The store has failed, or there is no memory to tell it something: the end. */
void coordinator_fail(coordinator *co);

/* A new job: its entry is in the table, not durable yet; the callback is that of the store. */
KD_MUST_USE kd_status coordinator_submit(coordinator *co, entry *e, store_done done, void *context);
/* The submit is on disk: from now on it is shown, and run when its turn comes. */
void coordinator_accept(coordinator *co, entry *e, const Kd__Job *spec);

/* One event of a job, with the reason to keep (NULL: none). KD_ERR_STATE if it is not possible. */
KD_MUST_USE kd_status coordinator_apply(coordinator *co,
                                        entry *e,
                                        job_event event,
                                        const char *reason);

/* Saves a job's row with an event that changes no state. */
void coordinator_note(coordinator *co, entry *e, const char *kind, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Starts jobs while there are slots. */
void coordinator_schedule(coordinator *co);

/* recovery.c: what a loaded job needs to go on. */
KD_MUST_USE kd_status coordinator_load(coordinator *co);

#endif
