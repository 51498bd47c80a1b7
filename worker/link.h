/*
 * link.h - a rank's line to the daemon, on a thread of its own.
 *
 * Training never waits for it: reports are queued, orders are read from atomics. While the daemon is
 * away the link tries again for ever, ever less often; reports that matter (faults, finished,
 * checkpoints, evaluations) wait for it, of step metrics only the newest RANK_LINK_STEPS_MAX.
 *
 * A link of NULL stands for a worker without a daemon: every function then does nothing.
 *
 * Threads: all functions on one thread, that of the training. on_refused runs on the link's.
 */
#ifndef KD_WORKER_LINK_H
#define KD_WORKER_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/worker.pb-c.h"

#define RANK_LINK_STEPS_MAX 1024

typedef struct rank_link rank_link;

typedef struct rank_link_settings {
    const Kd__Attempt *attempt; /* copied */
    uint32_t rank, world_size;
    /*
     * The daemon will have nothing to do with this rank: another attempt has its place, or the secret
     * is wrong. It must not write any more, whatever it is doing: the callback ends the process.
     */
    void (*on_refused)(const char *text);
} rank_link_settings;

/* Returns at once; the connection comes when it comes. KD_ERR_INVALID for a bad address. */
KD_MUST_USE kd_status rank_link_open(const rank_link_settings *settings, rank_link **link_out);

/* The last step finished, for heartbeats. */
void rank_link_set_step(rank_link *link, uint64_t step);

/* What the next heartbeats have as their places: a copy; without memory as before. */
void rank_link_set_places(rank_link *link, const Kd__Heartbeat *heartbeat);

/* Queues a copy. Without memory the report is lost, with a line in the log. */
void rank_link_report(rank_link *link, const Kd__RankMessage *message);

/*
 * An order to change a live value (its kind is SET, path and value are there), oldest first; NULL if there
 * is none. The caller frees it. Of those that nobody takes RANK_LINK_CHANGES_MAX wait; more are refused
 * with a line in the log, as are values that no order of a step could carry.
 */
#define RANK_LINK_CHANGES_MAX      64
#define RANK_LINK_CHANGE_BYTES_MAX 512 /* of path and value together */
Kd__RankOrder *rank_link_take_change(rank_link *link);

/* True once per order to save. An order to stop is kd_progress_stop() (base/progress.h). */
bool rank_link_take_save(rank_link *link);

/*
 * Sends what is queued and ends. Blocks until all of it has left, at most timeout_ms; frees the link.
 */
void rank_link_close(rank_link *link, uint64_t timeout_ms);

#endif
