/*
 * places.h - what this rank runs its roles on, and how much memory is in use there, for people: in its log
 * and, with the heartbeats, at the daemon.
 *
 * Threads: that of the training.
 */
#ifndef KD_WORKER_PLACES_H
#define KD_WORKER_PLACES_H

#include "tensor/ops.h"
#include "worker/link.h"

#define PLACE_ROLE_BYTES 128

typedef struct role_place {
    const kd_backend *be; /* borrowed */
    char role[PLACE_ROLE_BYTES];
} role_place;

typedef struct places {
    role_place *at; /* (n); owned */
    size_t n;
    uint64_t told_bytes; /* of all together, when the daemon last heard */
} places;

/* One more place, and a line of the log. */
KD_MUST_USE kd_status places_add(places *p, const kd_backend *be, const char *role);
void places_release(places *p); /* fine on {0} */

/* For the heartbeats from now on, if anything has changed. */
void places_tell(places *p, rank_link *link);

#endif
