/*
 * state_folder.h - the folder a daemon keeps its state in, and the lock that makes it the only one.
 *
 * The lock is flock(2) on DIR/lock, which the kernel lets go of however the daemon ends; the file
 * holds the holder's pid, for the message to the second.
 */
#ifndef KD_DAEMON_STATE_FOLDER_H
#define KD_DAEMON_STATE_FOLDER_H

#include <stdint.h>

#include "base/status.h"

/*
 * Makes the folder (mode 0700) and locks it. KD_ERR_STATE if another daemon has it, and the fault
 * text names its pid. *path_out is the real path, the caller's to free; *lock_out a descriptor to
 * be closed at the end. Blocks on the disk.
 */
KD_MUST_USE kd_status state_folder_open(const char *folder, char **path_out, int *lock_out);

/*
 * Paths in it, into buffers of PATH_MAX bytes: DIR/jobs/ID with `name` behind it ("/job.yaml"), and
 * DIR/jobs/ID/attempt-N.log.
 */
void state_job_path(const char *folder, uint64_t job_id, const char *name, char *path_out);
void state_log_path(const char *folder, uint64_t job_id, uint32_t attempt, char *path_out);

#endif
