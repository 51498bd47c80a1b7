/*
 * places.h - what this rank runs its roles on, how much memory is in use there and how long the parts of a
 * step take, for people: in its log and, with the heartbeats, at the daemon.
 *
 * Threads: that of the training.
 */
#ifndef KD_WORKER_PLACES_H
#define KD_WORKER_PLACES_H

#include "tensor/ops.h"
#include "train/step_time.h"
#include "worker/link.h"

#define PLACE_ROLE_BYTES 128

typedef struct role_place {
    const kd_backend *be; /* borrowed */
    char role[PLACE_ROLE_BYTES];
} role_place;

typedef struct places {
    role_place *at; /* (n); owned */
    size_t n;
    uint64_t told_bytes;  /* of all together, when the daemon last heard */
    double told_at_s;     /* monotonic                                   */
    kd_step_times times;  /* of a late step of the first                 */
    bool has_times;       /* there was one                               */
    bool has_later_times; /* than those that the daemon heard            */
} places;

/* One more place, and a line of the log. */
KD_MUST_USE kd_status places_add(places *p, const kd_backend *be, const char *role);
void places_release(places *p); /* fine on {0} */

/* How long the parts of a step took on the first place. */
void places_set_times(places *p, const kd_step_times *times);

/* For the heartbeats from now on, if anything has changed: memory at once, times now and then. */
void places_tell(places *p, rank_link *link);

#endif
