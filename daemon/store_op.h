/*
 * store_op.h - one request to the store: made on the loop, executed on the store's thread, given
 * back to the loop. Private to store.c, store_op.c and store_thread.c.
 *
 * An op owns all it points to: `owned` holds copies of what the request named, the lists what a
 * read found. It belongs to one thread at a time, so nothing in it is locked.
 */
#ifndef KD_DAEMON_STORE_OP_H
#define KD_DAEMON_STORE_OP_H

#include "daemon/store.h"

typedef enum store_op_kind {
    STORE_OP_INSERT_JOB,
    STORE_OP_UPDATE_JOB,
    STORE_OP_PUT_STEP,
    STORE_OP_READ_EVENTS,
    STORE_OP_READ_STEPS,
    STORE_OP_BARRIER,
    STORE_OP_KIND_COUNT,
} store_op_kind;

typedef struct store_op {
    struct store_op *next;
    store_op_kind kind;
    store_job row;
    store_event event;
    bool has_event;
    store_step step;
    uint64_t job_id, from; /* reads and steps */
    size_t limit;
    store_event *events; /* (n_found) */
    store_step *steps;   /* (n_found) */
    size_t n_found;
    kd_status status;
    void *context;
    store_done done;
    store_events_done events_done;
    store_steps_done steps_done;
    char *owned;
} store_op;

/* NULL without memory; the rows and events are copied whole. Either may be NULL. */
store_op *store_op_create(store_op_kind kind,
                          const store_job *row,
                          const store_event *event,
                          const store_step *step);
void store_op_destroy(store_op *op);

/* Runs the callback, if there is one. */
void store_op_answer(const store_op *op);

/* What a read found, copied into the op; KD_ERR_NOMEM. */
KD_MUST_USE kd_status store_op_found_event(store_op *op, const store_event *event);
KD_MUST_USE kd_status store_op_found_step(store_op *op, const store_step *step);

/* The database file itself; all of it blocks, on whatever thread calls. */
typedef struct database database;

KD_MUST_USE kd_status database_open(const char *folder, database **db_out);
KD_MUST_USE kd_status database_load(database *db,
                                    kd_status (*visit)(void *context, const store_job *row),
                                    void *context,
                                    uint64_t *last_seq_out);
/* Executes a list of ops in one transaction; on an error nothing of it is on disk. */
KD_MUST_USE kd_status database_commit(database *db, store_op *ops);
void database_close(database *db);

#endif
