/*
 * link_queue.h - reports that wait for the daemon, in order.
 *
 * Pure; the link's mutex guards it. Entries own their message.
 */
#ifndef KD_WORKER_LINK_QUEUE_H
#define KD_WORKER_LINK_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "proto/worker.pb-c.h"

typedef struct link_entry {
    struct link_entry *next;
    Kd__RankMessage *message; /* owned */
} link_entry;

/* Starts as {0}. */
typedef struct link_queue {
    link_entry *first, *last;
    size_t n_steps; /* entries that are step metrics */
} link_queue;

/* A copy of the message; NULL without memory. */
link_entry *link_entry_create(const Kd__RankMessage *message);
void link_entry_destroy(link_entry *entry);

void link_queue_add(link_queue *queue, link_entry *entry);
/* NULL if it is empty. */
link_entry *link_queue_take(link_queue *queue);
/* Drops the oldest step metrics until at most n_steps_max are left. */
void link_queue_trim(link_queue *queue, size_t n_steps_max);
/* Puts all of `earlier` in front and leaves it empty. */
void link_queue_prepend(link_queue *queue, link_queue *earlier);
void link_queue_clear(link_queue *queue);

#endif
