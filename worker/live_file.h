/*
 * live_file.h - OUTPUT/changes.jsonl on the disk: a line that names the job by its hash (identity.h), then
 * one for each change of a live value (live.h). Numbers of lines in messages count the first one.
 *
 * Only the leader has it; both functions block on the disk.
 */
#ifndef KD_WORKER_LIVE_FILE_H
#define KD_WORKER_LIVE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

/* Of all changes together. */
#define LIVE_FILE_BYTES_MAX (1u << 20)

/* Whose changes a file holds. */
typedef struct live_file_owner {
    uint64_t hash; /* the job's                                                */
    bool resumes;  /* it goes on from a checkpoint, which needs its changes    */
} live_file_owner;

/*
 * The changes that the file holds, malloc'ed; "" without one. A last line that is cut off was never sent
 * to anybody, since its order waits for the disk; it goes, so that the next one begins a line of its own.
 *
 * A file of another job is moved to changes.jsonl.old with a line in the log, where the job begins anew;
 * where it resumes it is KD_ERR_INVALID, since what acted before the checkpoint is not known then.
 * KD_ERR_PROTO names the line with a byte 0.
 */
KD_MUST_USE kd_status live_file_read(const char *output,
                                     const live_file_owner *owner,
                                     char **text_out);

/* Appends changes, and returns once the disk has them, the file's name included. */
KD_MUST_USE kd_status live_file_append(const char *output,
                                       const live_file_owner *owner,
                                       const kd_text *lines);

#endif
