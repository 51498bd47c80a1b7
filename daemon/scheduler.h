/*
 * scheduler.h - which queued job gets slots next.
 *
 * Order: strictly that of submission. A job gets all its slots at once or none (gang), and while
 * the first one does not fit nobody overtakes it: large jobs never starve, at the price of slots
 * that idle while it waits. Jobs that may not start yet are passed over: those that come after
 * unfinished jobs, those that wait out a backoff (the coordinator adds them when it is over), and
 * those that need more slots than there are, since a daemon may come back with fewer.
 * A job that comes back keeps its place.
 *
 * Pure: no clock. Items belong to the caller and are part of its job records; the scheduler owns
 * the heap of the ready ones and the lists of who waits for whom. Cost: O(log n) a job.
 */
#ifndef KD_DAEMON_SCHEDULER_H
#define KD_DAEMON_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct scheduler_item {
    uint64_t id;
    uint64_t slots;
    uint32_t n_awaited;                /* jobs it comes after that have not succeeded */
    bool running;                      /* holds its slots                             */
    bool retired;                      /* over: never ready again                     */
    size_t place;                      /* in the heap, counted from 1; 0: not ready   */
    struct scheduler_item **followers; /* those that come after it     */
    size_t n_followers, max_followers;
} scheduler_item;

typedef struct scheduler {
    uint64_t n_slots;
    uint64_t n_held;        /* above n_slots after adopting more than fits */
    scheduler_item **ready; /* a binary heap by id; ready[0] is the smallest */
    size_t n_ready, max_ready;
} scheduler;

void scheduler_init(scheduler *s, uint64_t n_slots);
void scheduler_release(scheduler *s);

void scheduler_item_init(scheduler_item *item, uint64_t id, uint64_t slots);
void scheduler_item_release(scheduler_item *item);

/* `item` comes after `first`, which has not succeeded. Before item is added. */
KD_MUST_USE kd_status scheduler_follow(scheduler_item *item, scheduler_item *first);

/* May start as soon as there is room and nobody it comes after is left; again is fine. */
KD_MUST_USE kd_status scheduler_add(scheduler *s, scheduler_item *item);
/* Takes it out, until it is added again; gives back its slots if it held some. */
void scheduler_remove(scheduler *s, scheduler_item *item);
/* The same for good: the job is over. */
void scheduler_retire(scheduler *s, scheduler_item *item);

/* The next to start, which holds its slots from now on; NULL if none fits. */
scheduler_item *scheduler_next(scheduler *s);

/* Takes the slots of one that runs since before the daemon did, even if there are too few. */
void scheduler_adopt(scheduler *s, scheduler_item *item);

/* It succeeded: each that comes after it waits for one less, and is added if that was the last. */
KD_MUST_USE kd_status scheduler_succeeded(scheduler *s, scheduler_item *item);

#endif
