/*
 * live_file.h - OUTPUT/changes.jsonl on the disk: a line for each change of a live value (live.h).
 *
 * Only the leader has it; both functions block on the disk.
 */
#ifndef KD_WORKER_LIVE_FILE_H
#define KD_WORKER_LIVE_FILE_H

#include <stddef.h>

#include "base/status.h"

#define LIVE_FILE_BYTES_MAX (1u << 20)

/*
 * What the file holds, malloc'ed; "" without one. A last line that is cut off was never sent to anybody,
 * since its order waits for the disk; it goes, so that the next one begins a line of its own.
 */
KD_MUST_USE kd_status live_file_read(const char *output, char **text_out);

/* Appends, and returns once the disk has it, the file's name included. */
KD_MUST_USE kd_status live_file_append(const char *output, const char *text, size_t size);

#endif
