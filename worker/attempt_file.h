/*
 * attempt_file.h - what the daemon hands to each rank on its way: which attempt it is of, where the daemon is
 * to be reached, and the secret (the message Attempt of worker.proto, packed).
 */
#ifndef KD_WORKER_ATTEMPT_FILE_H
#define KD_WORKER_ATTEMPT_FILE_H

#include "base/status.h"
#include "proto/worker.pb-c.h"

/*
 * kd__attempt__free_unpacked() frees it. Statuses of kd_file_read(); KD_ERR_PROTO for what is no attempt, or
 * lacks secret or address. Blocks on the disk.
 */
KD_MUST_USE kd_status attempt_file_read(const char *path, Kd__Attempt **attempt_out);

#endif
