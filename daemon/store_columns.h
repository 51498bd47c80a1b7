/*
 * store_columns.h - the columns of a job's row as one table: the schema, the statements that write and read a row,
 * and what is bound and read all come from it, so a new column is a member of store_job and a row here
 * (and, for files that are there already, a step of bring_schema() in store.c).
 *
 * Constant. Private to the store.
 */
#ifndef KD_DAEMON_STORE_COLUMNS_H
#define KD_DAEMON_STORE_COLUMNS_H

#include <stdbool.h>
#include <stddef.h>

typedef enum column_kind {
    COLUMN_U64,
    COLUMN_I64,
    COLUMN_U32,
    COLUMN_BOOL,
    COLUMN_STATE, /* a job_state; a number that is none makes the row damaged */
    COLUMN_REAL,
    COLUMN_REAL_OR_NONE, /* NaN is NULL */
    COLUMN_TEXT,         /* NULL is written as "" */
    COLUMN_TEXT_OR_NONE, /* NULL stays NULL */
    COLUMN_BLOB,         /* a pointer and a size */
    COLUMN_SECRET,       /* ATTEMPT_SECRET_BYTES; another size makes the row damaged */
} column_kind;

typedef struct store_column {
    const char *name;
    const char *declaration; /* its type and constraints in SQL */
    column_kind kind;
    bool is_fixed;      /* written with the job, never changed */
    size_t offset;      /* of the value in store_job      */
    size_t size_offset; /* of COLUMN_BLOB: of its size_t  */
} store_column;

/* The first is the id. Column i is parameter i + 1 of statements and column i of what they answer. */
extern const store_column store_columns[];
extern const int store_n_columns;

#endif
