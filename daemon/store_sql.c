/*
 * store_sql.c - apart from the database, so that a statement can be read beside the table that it is about, and a
 * column has no place in a text.
 */
#include "daemon/store_sql.h"

#include "base/status.h"
#include "daemon/store.h"
#include "daemon/store_columns.h"

/* Beside the table of jobs, whose columns stand in store_columns.c. */
static const char other_tables[] = "CREATE TABLE event ("
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
                                   " PRIMARY KEY (job_id, step)) WITHOUT ROWID;";

/* Of those that take a whole row the table of columns gives the text. */
static const char *const sql[SQL_COUNT] = {
    [SQL_BEGIN] = "BEGIN IMMEDIATE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_INSERT_EVENT] = "INSERT INTO event (seq, job_id, time, kind, text, state)"
                         " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [SQL_PUT_STEP] = "INSERT OR REPLACE INTO step (job_id, step, metrics) VALUES (?1, ?2, ?3)",
    [SQL_EVENTS] = "SELECT seq, time, kind, text, state FROM event"
                   " WHERE job_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    [SQL_STEPS] = "SELECT step, metrics FROM step"
                  " WHERE job_id = ?1 AND step >= ?2 ORDER BY step LIMIT ?3",
    [SQL_LAST_STEP] = "SELECT step, metrics FROM step WHERE job_id = ?1 ORDER BY step DESC LIMIT 1",
    [SQL_LAST_SEQ] = "SELECT coalesce(max(seq), 0) FROM event",
};

/* Adds a text for each column of a kind, with commas between. */
typedef void (*add_column)(kd_text *text, int i);

static void add_declaration(kd_text *text, int i)
{
    kd_text_printf(text, "%s %s", store_columns[i].name, store_columns[i].declaration);
}

static void add_name(kd_text *text, int i)
{
    kd_text_add(text, store_columns[i].name);
}

static void add_parameter(kd_text *text, int i)
{
    kd_text_printf(text, "?%d", i + 1);
}

static void add_assignment(kd_text *text, int i)
{
    kd_text_printf(text, "%s = ?%d", store_columns[i].name, i + 1);
}

static void add_columns(kd_text *text, bool with_fixed, add_column add)
{
    bool is_first = true;
    for (int i = 0; i < store_n_columns; i++) {
        if (with_fixed || !store_columns[i].is_fixed) {
            kd_text_add(text, is_first ? "" : ", ");
            add(text, i);
            is_first = false;
        }
    }
}

void store_sql_tables(kd_text *text)
{
    kd_text_add(text, "BEGIN; CREATE TABLE job (");
    add_columns(text, true, add_declaration);
    kd_text_printf(text, "); %s PRAGMA user_version = %d; COMMIT;", other_tables,
                   STORE_SCHEMA_VERSION);
}

void store_sql_statement(kd_text *text, store_statement which)
{
    if (sql[which] != NULL) {
        kd_text_add(text, sql[which]);
    } else if (which == SQL_INSERT_JOB) {
        kd_text_add(text, "INSERT INTO job (");
        add_columns(text, true, add_name);
        kd_text_add(text, ") VALUES (");
        add_columns(text, true, add_parameter);
        kd_text_add(text, ")");
    } else if (which == SQL_UPDATE_JOB) {
        kd_text_add(text, "UPDATE job SET ");
        add_columns(text, false, add_assignment);
        kd_text_add(text, " WHERE id = ?1");
    } else {
        KD_CHECK(which == SQL_JOBS);
        kd_text_add(text, "SELECT ");
        add_columns(text, true, add_name);
        kd_text_add(text, " FROM job ORDER BY id");
    }
}
