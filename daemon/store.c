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
#include "base/text.h"
#include "daemon/store_columns.h"
#include "daemon/store_op.h"
#include "daemon/store_sql.h"

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

static kd_status no_memory(const database *db)
{
    return kd_fail(KD_ERR_NOMEM, "store %s: no memory", db->path);
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

static kd_status make_tables(database *db)
{
    kd_text text = {0};
    store_sql_tables(&text);
    const kd_status st = text.failed ? no_memory(db) : execute(db, text.data, "make its tables");
    kd_text_release(&text);
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
    return version == 0 ? make_tables(db) : KD_OK;
}

static kd_status prepare_all(database *db)
{
    kd_text text = {0};
    kd_status st = KD_OK;
    for (int i = 0; i < SQL_COUNT && !st; i++) {
        kd_text_clear(&text);
        store_sql_statement(&text, (store_statement)i);
        if (text.failed) {
            st = no_memory(db);
        } else if (sqlite3_prepare_v3(db->handle, text.data, -1, SQLITE_PREPARE_PERSISTENT,
                                      &db->statements[i], NULL) != SQLITE_OK) {
            st = fail(db, "prepare its statements");
        }
    }
    kd_text_release(&text);
    return st;
}

static kd_status set_up(database *db)
{
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(db->path, &db->handle, flags, NULL) != SQLITE_OK) {
        return db->handle == NULL ? no_memory(db) : fail(db, "open it");
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

/* One column of a row. A member of another type would be another kind. */
static void bind_column(sqlite3_stmt *stmt, int i, const store_job *row)
{
    const store_column *column = &store_columns[i];
    const char *member = (const char *)row + column->offset;
    const char *text = NULL;
    switch (column->kind) {
    case COLUMN_U64:
        bind_number(stmt, i + 1, *(const uint64_t *)member);
        return;
    case COLUMN_I64:
        (void)sqlite3_bind_int64(stmt, i + 1, *(const int64_t *)member);
        return;
    case COLUMN_U32:
        bind_number(stmt, i + 1, *(const uint32_t *)member);
        return;
    case COLUMN_BOOL:
        bind_number(stmt, i + 1, *(const bool *)member);
        return;
    case COLUMN_STATE:
        bind_number(stmt, i + 1, *(const job_state *)member);
        return;
    case COLUMN_REAL:
    case COLUMN_REAL_OR_NONE: /* a NaN is stored as NULL */
        (void)sqlite3_bind_double(stmt, i + 1, *(const double *)member);
        return;
    case COLUMN_TEXT:
    case COLUMN_TEXT_OR_NONE: /* NULL is no text, and not unique */
        text = *(const char *const *)member;
        bind_text(stmt, i + 1, text == NULL && column->kind == COLUMN_TEXT ? "" : text);
        return;
    case COLUMN_BLOB:
        bind_blob(stmt, i + 1, *(const uint8_t *const *)member,
                  *(const size_t *)((const char *)row + column->size_offset));
        return;
    case COLUMN_SECRET:
        bind_blob(stmt, i + 1, (const uint8_t *)member, ATTEMPT_SECRET_BYTES);
        return;
    }
}

static void reset(sqlite3_stmt *stmt)
{
    (void)sqlite3_reset(stmt);
    (void)sqlite3_clear_bindings(stmt);
}

/* For statements that answer no rows. A parameter that could not be bound is NULL and refused here. */
static kd_status finish(database *db, store_statement which, const char *what)
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
    const store_statement which = is_new ? SQL_INSERT_JOB : SQL_UPDATE_JOB;
    for (int i = 0; i < store_n_columns; i++) {
        if (is_new || i == 0 || !store_columns[i].is_fixed) { /* 0: the id */
            bind_column(db->statements[which], i, &op->row);
        }
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

/* False: not what such a column can hold. */
static bool read_column(sqlite3_stmt *stmt, int i, store_job *row)
{
    const store_column *column = &store_columns[i];
    char *member = (char *)row + column->offset;
    size_t size = 0;
    const uint8_t *bytes = NULL;
    switch (column->kind) {
    case COLUMN_U64:
        *(uint64_t *)member = column_number(stmt, i);
        return true;
    case COLUMN_I64:
        *(int64_t *)member = sqlite3_column_int64(stmt, i);
        return true;
    case COLUMN_U32:
        *(uint32_t *)member = (uint32_t)column_number(stmt, i);
        return true;
    case COLUMN_BOOL:
        *(bool *)member = column_number(stmt, i) != 0;
        return true;
    case COLUMN_STATE:
        return column_state(stmt, i, (job_state *)member);
    case COLUMN_REAL:
        *(double *)member = sqlite3_column_double(stmt, i);
        return true;
    case COLUMN_REAL_OR_NONE:
        *(double *)member = column_or_nan(stmt, i);
        return true;
    case COLUMN_TEXT:
        *(const char **)member = column_text(stmt, i);
        return true;
    case COLUMN_TEXT_OR_NONE:
        *(const char **)member = (const char *)sqlite3_column_text(stmt, i);
        return true;
    case COLUMN_BLOB:
        *(const uint8_t **)member =
            column_blob(stmt, i, (size_t *)((char *)row + column->size_offset));
        return true;
    case COLUMN_SECRET:
        bytes = column_blob(stmt, i, &size);
        if (size == ATTEMPT_SECRET_BYTES) {
            memcpy(member, bytes, size);
        }
        return size == ATTEMPT_SECRET_BYTES;
    }
    return false;
}

static kd_status read_job(database *db, sqlite3_stmt *stmt, store_job *row_out)
{
    store_job row = {0};
    bool is_sound = true;
    for (int i = 0; i < store_n_columns; i++) {
        is_sound = read_column(stmt, i, &row) && is_sound;
    }
    if (row.job.id == 0 || !is_sound) {
        return kd_fail(KD_ERR_PROTO, "store %s: the row of job %" PRIu64 " is damaged", db->path,
                       row.job.id);
    }
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
