/*
 * scheduler.c - a heap by order of submission of those that could start, so that asking for the next costs
 * little with a hundred thousand waiting. Strict order, no backfill: see scheduler.h for the price.
 */
#include "daemon/scheduler.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"

void scheduler_init(scheduler *s, uint64_t n_slots)
{
    *s = (scheduler){.n_slots = n_slots};
}

void scheduler_release(scheduler *s)
{
    free(s->ready);
    *s = (scheduler){0};
}

void scheduler_item_init(scheduler_item *item, uint64_t id, uint64_t slots)
{
    *item = (scheduler_item){.id = id, .slots = slots};
}

void scheduler_item_release(scheduler_item *item)
{
    free(item->followers);
    *item = (scheduler_item){0};
}

/* Room for one more in a list of items. */
static kd_status make_room(scheduler_item ***items, size_t n, size_t *max)
{
    if (n < *max) {
        return KD_OK;
    }
    const size_t wanted = *max == 0 ? 8 : 2 * *max;
    scheduler_item **grown = realloc(*items, wanted * sizeof(scheduler_item *));
    if (grown == NULL) {
        return kd_fail(KD_ERR_NOMEM, "scheduler: no memory for a list of %zu jobs", wanted);
    }
    *items = grown;
    *max = wanted;
    return KD_OK;
}

kd_status scheduler_follow(scheduler_item *item, scheduler_item *first)
{
    KD_CHECK(item->place == 0 && item->id > first->id); /* so nobody waits for itself */
    const kd_status st = make_room(&first->followers, first->n_followers, &first->max_followers);
    if (st) {
        return st;
    }
    first->followers[first->n_followers++] = item;
    item->n_awaited++;
    return KD_OK;
}

static void put(scheduler *s, size_t at, scheduler_item *item)
{
    s->ready[at] = item;
    item->place = at + 1;
}

static void sift_up(scheduler *s, size_t at)
{
    scheduler_item *item = s->ready[at];
    while (at > 0 && s->ready[(at - 1) / 2]->id > item->id) {
        put(s, at, s->ready[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(s, at, item);
}

static void sift_down(scheduler *s, size_t at)
{
    scheduler_item *item = s->ready[at];
    for (size_t child = 2 * at + 1; child < s->n_ready; child = 2 * at + 1) {
        if (child + 1 < s->n_ready && s->ready[child + 1]->id < s->ready[child]->id) {
            child++;
        }
        if (s->ready[child]->id > item->id) {
            break;
        }
        put(s, at, s->ready[child]);
        at = child;
    }
    put(s, at, item);
}

static void take_out(scheduler *s, scheduler_item *item)
{
    const size_t at = item->place - 1;
    scheduler_item *last = s->ready[--s->n_ready];
    item->place = 0;
    if (last != item) {
        put(s, at, last);
        sift_up(s, at);
        sift_down(s, last->place - 1);
    }
}

kd_status scheduler_add(scheduler *s, scheduler_item *item)
{
    KD_CHECK(!item->running);
    if (item->place != 0 || item->n_awaited > 0 || item->retired || item->slots > s->n_slots) {
        return KD_OK;
    }
    const kd_status st = make_room(&s->ready, s->n_ready, &s->max_ready);
    if (st) {
        return st;
    }
    put(s, s->n_ready++, item);
    sift_up(s, item->place - 1);
    return KD_OK;
}

void scheduler_remove(scheduler *s, scheduler_item *item)
{
    if (item->place != 0) {
        take_out(s, item);
    }
    if (item->running) {
        item->running = false;
        s->n_held -= item->slots;
    }
}

void scheduler_retire(scheduler *s, scheduler_item *item)
{
    scheduler_remove(s, item);
    item->retired = true;
}

scheduler_item *scheduler_next(scheduler *s)
{
    if (s->n_ready == 0 || s->n_held + s->ready[0]->slots > s->n_slots) {
        return NULL;
    }
    scheduler_item *item = s->ready[0];
    take_out(s, item);
    item->running = true;
    s->n_held += item->slots;
    return item;
}

void scheduler_adopt(scheduler *s, scheduler_item *item)
{
    KD_CHECK(!item->running && item->place == 0);
    item->running = true;
    s->n_held += item->slots;
}

kd_status scheduler_succeeded(scheduler *s, scheduler_item *item)
{
    kd_status st = KD_OK;
    while (!st && item->n_followers > 0) {
        scheduler_item *follower = item->followers[--item->n_followers];
        follower->n_awaited--;
        st = scheduler_add(s, follower);
    }
    return st;
}
