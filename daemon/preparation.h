/*
 * preparation.h - what a launch needs before it can be made: the job, checked once more, and the files of the
 * attempt (launch_mpirun.h), written on a pool thread.
 *
 * The attempt may end meanwhile. Threads: the loop's; between
 * preparation_start() and its callback nobody touches it.
 */
#ifndef KD_DAEMON_PREPARATION_H
#define KD_DAEMON_PREPARATION_H

#include "daemon/attempt.h"
#include "daemon/devices.h"
#include "daemon/jobs.h"
#include "daemon/launch_mpirun.h"

typedef struct preparation preparation;

/* Where an attempt is launched. */
typedef struct preparation_place {
    const char *folder;     /* of the daemon's state                    */
    const char *worker;     /* path of distill-worker                   */
    const char *address;    /* where ranks reach the daemon             */
    const devices *devices; /* those that are avoided; read at once       */
    const char *mark;       /* of the attempt's processes (process.h)   */
} preparation_place;

/* Of the entry's job and this attempt of it. The strings of the place outlive it. NULL without memory. */
preparation *preparation_create(const entry *e, const attempt *a, const preparation_place *place);
void preparation_destroy(preparation *p); /* NULL is fine */

/*
 * Checks and writes; `done` follows exactly once, on the loop, unless an error is returned. Its text says what
 * went wrong and holds until the preparation is destroyed.
 */
typedef void (*preparation_done)(void *context, kd_status st, const char *fault);
KD_MUST_USE kd_status preparation_start(preparation *p,
                                        uv_loop_t *loop,
                                        preparation_done done,
                                        void *context);

/* What was prepared. */
const launch *preparation_launch(const preparation *p);

#endif
