/*
 * csv.h - a table on disk with one row per step, that survives restarts.
 *
 * The first column is the step, ascending. An attempt that goes on from an earlier step than the
 * last row drops the rows it will write again. Each row is one write(2), so readers see whole rows;
 * rows are not fsynced, since what a crash of the machine loses is computed again.
 */
#ifndef KD_WORKER_CSV_H
#define KD_WORKER_CSV_H

#include <stdint.h>

#include "base/status.h"

typedef struct csv {
    int fd;     /* -1: not open */
    char *path; /* owned        */
} csv;

/*
 * Keeps the rows of steps before first_step if the file's header is this one; starts anew otherwise.
 * `header` without its newline.
 */
KD_MUST_USE kd_status csv_open(csv *table,
                               const char *path,
                               const char *header,
                               uint64_t first_step);

/* One row, without its newline. */
KD_MUST_USE kd_status csv_add(csv *table, const char *row);

void csv_close(csv *table); /* fine on one that is not open */

#endif
