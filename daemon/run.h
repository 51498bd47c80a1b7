/*
 * run.h - a live attempt: the pure attempt (attempt.h) with its processes and its rank links.
 *
 * A launch goes record (the attempt and its secret are on disk), prepare (files, on a pool thread),
 * spawn. So whatever is spawned is known to the next daemon, at the least by its mark.
 *
 * A run is destroyed when its attempt is over, and then its job goes on or ends.
 */
#ifndef KD_DAEMON_RUN_H
#define KD_DAEMON_RUN_H

#include "daemon/attempt.h"
#include "daemon/coordinator.h"
#include "proto/worker.pb-c.h"

struct rank_link;

typedef struct run run;

/* For a job that has its slots. */
void run_start(coordinator *co, entry *e);

/*
 * For a job whose attempt began under an earlier daemon: waits for its ranks if its launcher lives
 * on, otherwise puts the job back into the queue at no cost. Blocks on /proc.
 */
KD_MUST_USE kd_status run_adopt(coordinator *co, entry *e, const Kd__Job *spec);

/* Cancel, or the daemon stops: saves, ends, and is killed if it does not. */
void run_stop(run *r);

void run_tick_all(coordinator *co);
/* Forgets every run and leaves its processes alone, for the next daemon to take up. */
void run_abandon_all(coordinator *co);

run *run_next(const run *r);
entry *run_entry(const run *r);
attempt *run_attempt(run *r);

/* A rank said hello on this link, or its link closed. The link is the caller's. */
KD_MUST_USE kd_status run_register(run *r, const attempt_claim *claim, struct rank_link *link);
void run_unregister(run *r, uint32_t rank, struct rank_link *link);
/* The leader has the order to stop, or missed it while it was away. */
bool run_is_told_to_stop(const run *r);

/* The last heartbeat of a registered rank, which the run now owns. */
void run_keep_heartbeat(run *r, uint32_t rank, Kd__Heartbeat *heartbeat);
/* What the ranks said they run on, in their order: their texts are the run's, the list is the caller's to
 * free; NULL if there are none, or without memory. */
Kd__RankStatus **run_places(const run *r, size_t *n_out);

/* Carries out what the attempt wants; may destroy the run. After everything told to the attempt. */
void run_drive(run *r);

#endif
