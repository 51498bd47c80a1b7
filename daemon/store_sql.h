/*
 * store_sql.h - every text of SQL that the store uses. Pure; private to the store.
 *
 * Statements that take or give a whole row are made of the table of columns, whose numbers are those of their
 * parameters and answers (store_columns.h).
 */
#ifndef KD_DAEMON_STORE_SQL_H
#define KD_DAEMON_STORE_SQL_H

#include "base/text.h"

typedef enum store_statement {
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
} store_statement;

/* Makes all tables, of version STORE_SCHEMA_VERSION, in one transaction. */
void store_sql_tables(kd_text *text);

void store_sql_statement(kd_text *text, store_statement which);

#endif
