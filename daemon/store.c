/*
 * store.c - the database: statements are prepared once, since commits are counted by the second, and a list of
 * requests is one transaction, so that all of it is on the disk or none.
 */
#include "daemon/store.h"

#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "daemon/store_op.h"

static const char schema[] = "BEGIN;"
                             "CREATE TABLE job ("
                             " id INTEGER PRIMARY KEY,"
                             " token TEXT UNIQUE,"
                             " spec BLOB NOT NULL,"
                             " name TEXT NOT NULL,"
                             " output TEXT NOT NULL,"
                             " steps INTEGER NOT NULL,"
                             " state INTEGER NOT NULL,"
                             " cancel_asked INTEGER NOT NULL,"
                             " attempts INTEGER NOT NULL,"
                             " failures INTEGER NOT NULL,"
                             " max_restarts INTEGER NOT NULL,"
                             " reason TEXT NOT NULL,"
                             " step INTEGER NOT NULL,"
                             " last_step BLOB,"
                             " submitted_at REAL NOT NULL,"
                             " started_at REAL NOT NULL,"
                             " finished_at REAL NOT NULL,"
                             " test_loss REAL,"
                             " test_accuracy REAL,"
                             " launcher_pid INTEGER NOT NULL,"
                             " launcher_start INTEGER NOT NULL,"
                             " secret BLOB NOT NULL);"
                             "CREATE TABLE event ("
                             " seq INTEGER PRIMARY KEY,"
                             " job_id INTEGER NOT NULL,"
                             " time REAL NOT NULL,"
                             " kind TEXT NOT NULL,"
                             " text TEXT NOT NULL,"
                             " state INTEGER NOT NULL);"
                             "CREATE INDEX event_by_job ON event (job_id, seq);"
                             "CREATE TABLE step ("
                             " job_id INTEGER NOT NULL,"
                             " step INTEGER NOT NULL,"
                             " metrics BLOB NOT NULL,"
                             " PRIMARY KEY (job_id, step)) WITHOUT ROWID;"
                             "PRAGMA user_version = 1;"
                             "COMMIT;";
_Static_assert(STORE_SCHEMA_VERSION == 1, "the schema above says its version");

typedef enum statement {
    SQL_BEGIN,
    SQL_COMMIT,
    SQL_ROLLBACK,
    SQL_INSERT_JOB,
    SQL_UPDATE_JOB,
    SQL_INSERT_EVENT,
    SQL_PUT_STEP,
    SQL_EVENTS,
    SQL_STEPS,
    SQL_JOBS,
    SQL_LAST_STEP,
    SQL_LAST_SEQ,
    SQL_COUNT,
} statement;

/* Parameters 1 to 15 of the first two are the same, so one function binds both. */
static const char *const sql[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_INSERT_JOB] =
        "INSERT INTO job (id, state, cancel_asked, attempts, failures, reason, step, last_step,"
        " started_at, finished_at, test_loss, test_accuracy, launcher_pid, launcher_start, secret,"
        " token, spec, name, output, steps, max_restarts, submitted_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,"
        " ?19, ?20, ?21, ?22)",
    [SQL_UPDATE_JOB] =
        "UPDATE job SET state = ?2, cancel_asked = ?3, attempts = ?4, failures = ?5, reason = ?6,"
        " step = ?7, last_step = ?8, started_at = ?9, finished_at = ?10, test_loss = ?11,"
        " test_accuracy = ?12, launcher_pid = ?13, launcher_start = ?14, secret = ?15"
        " WHERE id = ?1",
    [SQL_INSERT_EVENT] = "INSERT INTO event (seq, job_id, time, kind, text, state)"
                         " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_PUT_STEP] = "INSERT OR REPLACE INTO step (job_id, step, metrics) VALUES (?1, ?2, ?3)",
    [SQL_EVENTS] = "SELECT seq, time, kind, text, state FROM event"
                   " WHERE job_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    [SQL_STEPS] = "SELECT step, metrics FROM step"
                  " WHERE job_id = ?1 AND step >= ?2 ORDER BY step LIMIT ?3",
    [SQL_JOBS] = "SELECT id, state, cancel_asked, attempts, failures, reason, step, last_step,"
                 " started_at, finished_at, test_loss, test_accuracy, launcher_pid, launcher_start,"
                 " secret, token, spec, name, output, steps, max_restarts, submitted_at"
                 " FROM job ORDER BY id",
    [SQL_LAST_STEP] = "SELECT step, metrics FROM step WHERE job_id = ?1 ORDER BY step DESC LIMIT 1",
    [SQL_LAST_SEQ] = "SELECT coalesce(max(seq), 0) FROM event",
};

struct database {
    sqlite3 *handle;
    char *path;
    sqlite3_stmt *statements[SQL_COUNT];
};

static kd_status fail(const database *db, const char *what)
{
    const int code = sqlite3_errcode(db->handle) & 0xff;
    const kd_status st = code == SQLITE_NOTADB || code == SQLITE_CORRUPT ? KD_ERR_PROTO
                         : code == SQLITE_NOMEM                          ? KD_ERR_NOMEM
                                                                         : KD_ERR_IO;
    return kd_fail(st, "store %s: cannot %s: %s", db->path, what, sqlite3_errmsg(db->handle));
}

static kd_status execute(database *db, const char *text, const char *what)
{
    return sqlite3_exec(db->handle, text, NULL, NULL, NULL) == SQLITE_OK ? KD_OK : fail(db, what);
}

static kd_status read_version(database *db, int *version_out)
{
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(db->handle, "PRAGMA user_version", -1, &stmt, NULL) != SQLITE_OK) {
        return fail(db, "read its version");
    }
    const bool found = sqlite3_step(stmt) == SQLITE_ROW;
    const int version = found ? sqlite3_column_int(stmt, 0) : 0;
    const kd_status st = found ? KD_OK : fail(db, "read its version");
    (void)sqlite3_finalize(stmt);
    if (st == KD_OK) {
        *version_out = version;
    }
    return st;
}

/* Version 0 is a file that was just made, or whose making was interrupted. */
static kd_status bring_schema(database *db)
{
    int version = 0;
    kd_status st = read_version(db, &version);
    if (st) {
        return st;
    }
    if (version < 0 || version > STORE_SCHEMA_VERSION) {
        return kd_fail(KD_ERR_INVALID,
                       "store %s: found schema version %d, expected at most %d: "
                       "a newer distilld wrote it",
                       db->path, version, STORE_SCHEMA_VERSION);
    }
    return version == 0 ? execute(db, schema, "make its tables") : KD_OK;
}

static kd_status prepare_all(database *db)
{
    for (int i = 0; i < SQL_COUNT; i++) {
        if (sqlite3_prepare_v3(db->handle, sql[i], -1, SQLITE_PREPARE_PERSISTENT,
                               &db->statements[i], NULL) != SQLITE_OK) {
            return fail(db, "prepare its statements");
        }
    }
    return KD_OK;
}

static kd_status set_up(database *db)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(db->path, &db->handle, flags, NULL) != SQLITE_OK) {
        return db->handle == NULL ? kd_fail(KD_ERR_NOMEM, "store %s: no memory", db->path)
                                  : fail(db, "open it");
    }
    kd_status st = execute(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
                           "switch to write-ahead logging");
    if (st == KD_OK) {
        st = bring_schema(db);
    }
    return st ? st : prepare_all(db);
}

kd_status database_open(const char *folder, database **db_out)
{
    database *db = calloc(1, sizeof *db);
    if (db == NULL) {
        return kd_fail(KD_ERR_NOMEM, "store in %s: no memory", folder);
    }
    db->path = kd_path_join(folder, "jobs.db");
    kd_status st = db->path == NULL ? KD_ERR_NOMEM : KD_OK;
    if (st == KD_OK) {
        st = set_up(db);
    }
    if (st == KD_OK) {
        st = kd_folder_sync(folder);
    }
    if (st) {
        database_close(db);
        return st;
    }
    *db_out = db;
    return KD_OK;
}

void database_close(database *db)
{
    for (int i = 0; i < SQL_COUNT; i++) {
        (void)sqlite3_finalize(db->statements[i]);
    }
    (void)sqlite3_close(db->handle);
    free(db->path);
    free(db);
}

static void bind_number(sqlite3_stmt *stmt, int at, uint64_t value)
{
    (void)sqlite3_bind_int64(stmt, at, (sqlite3_int64)value);
}

/* The bytes stay where they are until the statement is reset. */
static void bind_text(sqlite3_stmt *stmt, int at, const char *text)
{
    (void)sqlite3_bind_text(stmt, at, text, -1, SQLITE_STATIC);
}

static void bind_blob(sqlite3_stmt *stmt, int at, const uint8_t *bytes, size_t n_bytes)
{
    (void)sqlite3_bind_blob64(stmt, at, bytes, n_bytes, SQLITE_STATIC);
}

static void bind_changing(sqlite3_stmt *stmt, const store_job *row)
{
    bind_number(stmt, 1, row->job.id);
    bind_number(stmt, 2, row->job.state);
    bind_number(stmt, 3, row->job.cancel_asked);
    bind_number(stmt, 4, row->job.attempts);
    bind_number(stmt, 5, row->job.failures);
    bind_text(stmt, 6, row->reason == NULL ? "" : row->reason);
    bind_number(stmt, 7, row->step);
    bind_blob(stmt, 8, row->last_step, row->last_step_bytes);
    (void)sqlite3_bind_double(stmt, 9, row->started_at);
    (void)sqlite3_bind_double(stmt, 10, row->finished_at);
    (void)sqlite3_bind_double(stmt, 11, row->test_loss); /* a NaN is stored as NULL */
    (void)sqlite3_bind_double(stmt, 12, row->test_accuracy);
    (void)sqlite3_bind_int64(stmt, 13, row->launcher_pid);
    bind_number(stmt, 14, row->launcher_start);
    bind_blob(stmt, 15, row->secret, sizeof row->secret);
}

static void bind_fixed(sqlite3_stmt *stmt, const store_job *row)
{
    bind_text(stmt, 16, row->token); /* NULL is no text, and not unique */
    bind_blob(stmt, 17, row->spec, row->spec_bytes);
    bind_text(stmt, 18, row->name);
    bind_text(stmt, 19, row->output);
    bind_number(stmt, 20, row->steps);
    bind_number(stmt, 21, row->job.max_restarts);
    (void)sqlite3_bind_double(stmt, 22, row->submitted_at);
}

static void reset(sqlite3_stmt *stmt)
{
    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
}

/* For statements that answer no rows. A parameter that could not be bound is NULL and refused here. */
static kd_status finish(database *db, statement which, const char *what)
{
    sqlite3_stmt *stmt = db->statements[which];
    const kd_status st = sqlite3_step(stmt) == SQLITE_DONE ? KD_OK : fail(db, what);
    reset(stmt);
    return st;
}

static kd_status insert_event(database *db, const store_event *event)
{
    sqlite3_stmt *stmt = db->statements[SQL_INSERT_EVENT];
    bind_number(stmt, 1, event->seq);
    bind_number(stmt, 2, event->job_id);
    (void)sqlite3_bind_double(stmt, 3, event->time);
    bind_text(stmt, 4, event->kind);
    bind_text(stmt, 5, event->text);
    bind_number(stmt, 6, event->state);
    return finish(db, SQL_INSERT_EVENT, "add an event");
}

static kd_status write_job(database *db, const store_op *op)
{
    const bool is_new = op->kind == STORE_OP_INSERT_JOB;
    const statement which = is_new ? SQL_INSERT_JOB : SQL_UPDATE_JOB;
    bind_changing(db->statements[which], &op->row);
    if (is_new) {
        bind_fixed(db->statements[which], &op->row);
    }
    const kd_status st = finish(db, which, is_new ? "add a job" : "change a job");
    return st || !op->has_event ? st : insert_event(db, &op->event);
}

static kd_status put_step(database *db, const store_op *op)
{
    sqlite3_stmt *stmt = db->statements[SQL_PUT_STEP];
    bind_number(stmt, 1, op->job_id);
    bind_number(stmt, 2, op->step.step);
    bind_blob(stmt, 3, op->step.bytes, op->step.n_bytes);
    return finish(db, SQL_PUT_STEP, "add a step");
}

static const char *column_text(sqlite3_stmt *stmt, int at)
{
    const unsigned char *text = sqlite3_column_text(stmt, at);
    return text == NULL ? "" : (const char *)text;
}

static uint64_t column_number(sqlite3_stmt *stmt, int at)
{
    return (uint64_t)sqlite3_column_int64(stmt, at);
}

static const uint8_t *column_blob(sqlite3_stmt *stmt, int at, size_t *n_bytes_out)
{
    const uint8_t *bytes = sqlite3_column_blob(stmt, at);
    *n_bytes_out = (size_t)sqlite3_column_bytes(stmt, at);
    return bytes;
}

/* Bytes from a file: a state that is none must not reach the state machine. */
static bool column_state(sqlite3_stmt *stmt, int at, job_state *state_out)
{
    const uint64_t number = column_number(stmt, at);
    *state_out = number < JOB_STATE_COUNT ? (job_state)number : JOB_FAILED;
    return number < JOB_STATE_COUNT;
}

static kd_status found_event(store_op *op, sqlite3_stmt *stmt)
{
    store_event event = {.seq = column_number(stmt, 0),
                         .job_id = op->job_id,
                         .time = sqlite3_column_double(stmt, 1),
                         .kind = column_text(stmt, 2),
                         .text = column_text(stmt, 3)};
    (void)column_state(stmt, 4, &event.state);
    return store_op_found_event(op, &event);
}

static kd_status found_step(store_op *op, sqlite3_stmt *stmt)
{
    store_step step = {.step = column_number(stmt, 0)};
    step.bytes = column_blob(stmt, 1, &step.n_bytes);
    return store_op_found_step(op, &step);
}

static kd_status read_list(database *db, store_op *op)
{
    const bool events = op->kind == STORE_OP_READ_EVENTS;
    sqlite3_stmt *stmt = db->statements[events ? SQL_EVENTS : SQL_STEPS];
    bind_number(stmt, 1, op->job_id);
    bind_number(stmt, 2, op->from);
    bind_number(stmt, 3, op->limit);
    kd_status st = KD_OK;
    int code = sqlite3_step(stmt);
    while (st == KD_OK && code == SQLITE_ROW) {
        st = events ? found_event(op, stmt) : found_step(op, stmt);
        code = sqlite3_step(stmt);
    }
    if (st == KD_OK && code != SQLITE_DONE) {
        st = fail(db, "read a job's history");
    }
    reset(stmt);
    return st;
}

static kd_status perform(database *db, store_op *op)
{
    switch (op->kind) {
    case STORE_OP_INSERT_JOB:
    case STORE_OP_UPDATE_JOB:
        return write_job(db, op);
    case STORE_OP_PUT_STEP:
        return put_step(db, op);
    case STORE_OP_READ_EVENTS:
    case STORE_OP_READ_STEPS:
        return read_list(db, op);
    case STORE_OP_BARRIER:
        return KD_OK;
    case STORE_OP_KIND_COUNT:
        break;
    }
    KD_CHECK(!"a kind of store_op_kind");
    return KD_ERR_ARG;
}

kd_status database_commit(database *db, store_op *ops)
{
    kd_status st = finish(db, SQL_BEGIN, "begin a transaction");
    if (st) {
        return st;
    }
    for (store_op *op = ops; st == KD_OK && op != NULL; op = op->next) {
        st = perform(db, op);
    }
    if (st == KD_OK) {
        st = finish(db, SQL_COMMIT, "commit");
    }
    if (st && sqlite3_get_autocommit(db->handle) == 0) {
        (void)finish(db, SQL_ROLLBACK, "roll back");
    }
    return st;
}

static double column_or_nan(sqlite3_stmt *stmt, int at)
{
    return sqlite3_column_type(stmt, at) == SQLITE_NULL ? (double)NAN
                                                        : sqlite3_column_double(stmt, at);
}

/* Columns are in the order of bind_changing() and bind_fixed(). */
static kd_status read_job(database *db, sqlite3_stmt *stmt, store_job *row_out)
{
    store_job row = {.job = {.id = column_number(stmt, 0),
                             .cancel_asked = column_number(stmt, 2) != 0,
                             .attempts = (uint32_t)column_number(stmt, 3),
                             .failures = (uint32_t)column_number(stmt, 4),
                             .max_restarts = (uint32_t)column_number(stmt, 20)},
                     .reason = column_text(stmt, 5),
                     .step = column_number(stmt, 6),
                     .started_at = sqlite3_column_double(stmt, 8),
                     .finished_at = sqlite3_column_double(stmt, 9),
                     .test_loss = column_or_nan(stmt, 10),
                     .test_accuracy = column_or_nan(stmt, 11),
                     .launcher_pid = sqlite3_column_int64(stmt, 12),
                     .launcher_start = column_number(stmt, 13),
                     .token = (const char *)sqlite3_column_text(stmt, 15),
                     .name = column_text(stmt, 17),
                     .output = column_text(stmt, 18),
                     .steps = column_number(stmt, 19),
                     .submitted_at = sqlite3_column_double(stmt, 21)};
    row.last_step = column_blob(stmt, 7, &row.last_step_bytes);
    row.spec = column_blob(stmt, 16, &row.spec_bytes);
    size_t secret_bytes;
    const uint8_t *secret = column_blob(stmt, 14, &secret_bytes);
    if (row.job.id == 0 || !column_state(stmt, 1, &row.job.state) ||
        secret_bytes != sizeof row.secret) {
        return kd_fail(KD_ERR_PROTO, "store %s: the row of job %" PRIu64 " is damaged", db->path,
                       row.job.id);
    }
    memcpy(row.secret, secret, sizeof row.secret);
    *row_out = row;
    return KD_OK;
}

/* A running job's row is older than its steps. */
static void read_last_step(database *db, store_job *row)
{
    sqlite3_stmt *stmt = db->statements[SQL_LAST_STEP];
    bind_number(stmt, 1, row->job.id);
    if (sqlite3_step(stmt) == SQLITE_ROW) {
        row->step = column_number(stmt, 0);
        row->last_step = column_blob(stmt, 1, &row->last_step_bytes);
    }
}

static kd_status visit_row(database *db,
                           sqlite3_stmt *stmt,
                           kd_status (*visit)(void *context, const store_job *row),
                           void *context)
{
    store_job row = {0};
    kd_status st = read_job(db, stmt, &row);
    if (st == KD_OK && (row.job.state == JOB_STARTING || row.job.state == JOB_RUNNING)) {
        read_last_step(db, &row);
    }
    if (st == KD_OK) {
        st = visit(context, &row);
    }
    reset(db->statements[SQL_LAST_STEP]);
    return st;
}

kd_status database_load(database *db,
                        kd_status (*visit)(void *context, const store_job *row),
                        void *context,
                        uint64_t *last_seq_out)
{
    sqlite3_stmt *stmt = db->statements[SQL_JOBS];
    kd_status st = KD_OK;
    int code;
    while ((code = sqlite3_step(stmt)) == SQLITE_ROW && st == KD_OK) {
        st = visit_row(db, stmt, visit, context);
    }
    if (st == KD_OK && code != SQLITE_DONE) {
        st = fail(db, "read the jobs");
    }
    reset(stmt);
    if (st) {
        return st;
    }
    sqlite3_stmt *last = db->statements[SQL_LAST_SEQ];
    const bool found = sqlite3_step(last) == SQLITE_ROW;
    const uint64_t last_seq = found ? column_number(last, 0) : 0;
    st = found ? KD_OK : fail(db, "read the last event");
    reset(last);
    if (st == KD_OK) {
        *last_seq_out = last_seq;
    }
    return st;
}
