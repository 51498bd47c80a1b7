/*
 * link_queue.c - of reports only steps may be lost, the oldest first: what comes later says more, and the
 * rest decides what becomes of the job.
 */
#include "worker/link_queue.h"

#include <stdlib.h>

#include "message/reflect.h"

link_entry *link_entry_create(const Kd__RankMessage *message)
{
    link_entry *entry = calloc(1, sizeof *entry);
    if (entry == NULL) {
        return NULL;
    }
    entry->message = (Kd__RankMessage *)kd_message_copy(&message->base);
    if (entry->message == NULL) {
        free(entry);
        return NULL;
    }
    return entry;
}

void link_entry_destroy(link_entry *entry)
{
    kd_message_destroy(&entry->message->base);
    free(entry);
}

/* Only step metrics may be lost. */
static bool matters(const link_entry *entry)
{
    return entry->message->body_case != KD__RANK_MESSAGE__BODY_STEP;
}

void link_queue_add(link_queue *queue, link_entry *entry)
{
    entry->next = NULL;
    if (queue->last == NULL) {
        queue->first = entry;
    } else {
        queue->last->next = entry;
    }
    queue->last = entry;
    queue->n_steps += !matters(entry);
}

link_entry *link_queue_take(link_queue *queue)
{
    link_entry *entry = queue->first;
    if (entry != NULL) {
        queue->first = entry->next;
        queue->last = queue->first == NULL ? NULL : queue->last;
        queue->n_steps -= !matters(entry);
    }
    return entry;
}

void link_queue_trim(link_queue *queue, size_t n_steps_max)
{
    if (queue->n_steps <= n_steps_max) {
        return;
    }
    link_queue kept = {0};
    size_t n_surplus = queue->n_steps - n_steps_max;
    for (link_entry *entry = link_queue_take(queue); entry != NULL;
         entry = link_queue_take(queue)) {
        if (n_surplus > 0 && !matters(entry)) {
            link_entry_destroy(entry);
            n_surplus--;
        } else {
            link_queue_add(&kept, entry);
        }
    }
    *queue = kept;
}

void link_queue_prepend(link_queue *queue, link_queue *earlier)
{
    if (earlier->last == NULL) {
        return;
    }
    earlier->last->next = queue->first;
    queue->first = earlier->first;
    queue->last = queue->last == NULL ? earlier->last : queue->last;
    queue->n_steps += earlier->n_steps;
    *earlier = (link_queue){0};
}

void link_queue_clear(link_queue *queue)
{
    for (link_entry *entry = link_queue_take(queue); entry != NULL;
         entry = link_queue_take(queue)) {
        link_entry_destroy(entry);
    }
}
