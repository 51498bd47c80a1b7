/*
 * launch_mpirun.h - starts the ranks of an attempt on this machine: mpirun -n N distill-worker.
 *
 * mpirun gets a session of its own, so that it and its ranks outlive the daemon, /dev/null as input
 * and the attempt's log file as output. All of them carry a mark in their environment by which they
 * are found again (process.h). The environment of the daemon is passed on; what Open MPI needs on a
 * single machine is set where the user has not set it. Ranks log as much as the daemon does.
 */
#ifndef KD_DAEMON_LAUNCH_MPIRUN_H
#define KD_DAEMON_LAUNCH_MPIRUN_H

#include <stdint.h>
#include <uv.h>

#include "base/status.h"

typedef struct launch {
    const char *worker;       /* path of distill-worker                    */
    const char *folder;       /* made if need be: the job's own            */
    const char *job_file;     /* below it: the job as YAML                 */
    const char *attempt_file; /* below it: the packed Attempt, mode 0600   */
    const char *log_file;     /* below it: appended to                     */
    const char *mark;         /* "NAME=VALUE" for the environment          */
    uint32_t n_ranks;
    const char *job_yaml;
    const uint8_t *attempt;
    size_t attempt_bytes;
} launch;

/* Writes the files; blocks on the disk, on any thread. KD_ERR_NOT_FOUND: no mpirun or no worker. */
KD_MUST_USE kd_status launch_prepare(const launch *l);

/* 128 + n if signal n ended it. */
typedef void (*launch_exited)(void *context, int exit_status);

/* Starts mpirun; `on_exit` follows exactly once, on the loop, unless an error is returned. */
KD_MUST_USE kd_status launch_mpirun(uv_loop_t *loop,
                                    const launch *l,
                                    launch_exited on_exit,
                                    void *context,
                                    int64_t *pid_out);

#endif
