/* store_columns.c - in the order of the first schema, so that a person who looks into the file finds it so. */
#include "daemon/store_columns.h"

#include "daemon/store.h"

#define AT(member)    offsetof(store_job, member), 0
#define BYTES(member) offsetof(store_job, member), offsetof(store_job, member##_bytes)

enum { CHANGES, FIXED };

const store_column store_columns[] = {
    {"id", "INTEGER PRIMARY KEY", COLUMN_U64, FIXED, AT(job.id)},
    {"token", "TEXT UNIQUE", COLUMN_TEXT_OR_NONE, FIXED, AT(token)},
    {"spec", "BLOB NOT NULL", COLUMN_BLOB, FIXED, BYTES(spec)},
    {"name", "TEXT NOT NULL", COLUMN_TEXT, FIXED, AT(name)},
    {"output", "TEXT NOT NULL", COLUMN_TEXT, FIXED, AT(output)},
    {"steps", "INTEGER NOT NULL", COLUMN_U64, FIXED, AT(steps)},
    {"state", "INTEGER NOT NULL", COLUMN_STATE, CHANGES, AT(job.state)},
    {"cancel_asked", "INTEGER NOT NULL", COLUMN_BOOL, CHANGES, AT(job.cancel_asked)},
    {"attempts", "INTEGER NOT NULL", COLUMN_U32, CHANGES, AT(job.attempts)},
    {"failures", "INTEGER NOT NULL", COLUMN_U32, CHANGES, AT(job.failures)},
    {"max_restarts", "INTEGER NOT NULL", COLUMN_U32, FIXED, AT(job.max_restarts)},
    {"reason", "TEXT NOT NULL", COLUMN_TEXT, CHANGES, AT(reason)},
    {"step", "INTEGER NOT NULL", COLUMN_U64, CHANGES, AT(step)},
    {"last_step", "BLOB", COLUMN_BLOB, CHANGES, BYTES(last_step)},
    {"submitted_at", "REAL NOT NULL", COLUMN_REAL, FIXED, AT(submitted_at)},
    {"started_at", "REAL NOT NULL", COLUMN_REAL, CHANGES, AT(started_at)},
    {"finished_at", "REAL NOT NULL", COLUMN_REAL, CHANGES, AT(finished_at)},
    {"test_loss", "REAL", COLUMN_REAL_OR_NONE, CHANGES, AT(test_loss)},
    {"test_accuracy", "REAL", COLUMN_REAL_OR_NONE, CHANGES, AT(test_accuracy)},
    {"launcher_pid", "INTEGER NOT NULL", COLUMN_I64, CHANGES, AT(launcher_pid)},
    {"launcher_start", "INTEGER NOT NULL", COLUMN_U64, CHANGES, AT(launcher_start)},
    {"secret", "BLOB NOT NULL", COLUMN_SECRET, CHANGES, AT(secret)},
};

const int store_n_columns = sizeof store_columns / sizeof *store_columns;
