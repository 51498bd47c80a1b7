/*
 * watch.c - nothing is queued for a watcher: who has no room is counted past, and gets the number and the
 * newest state when there is room again. A slow reader costs the daemon a counter.
 */
#include "daemon/watch.h"

#include <stdlib.h>

typedef struct watcher {
    stream stream;
    entry *entry;
    uint64_t n_missed;
    bool over; /* the job ended; the last update is still to be sent */
    struct watcher *next;
} watcher;

static void leave(stream *st)
{
    watcher *w = (watcher *)st;
    watcher **at = &w->entry->watchers;
    while (*at != w) {
        at = &(*at)->next;
    }
    *at = w->next;
    free(w);
}

static void send_update(watcher *w, const Kd__Event *event, bool last)
{
    Kd__JobStatus status;
    Kd__WatchUpdate update = KD__WATCH_UPDATE__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    entry_status(w->entry, &status);
    update.status = &status;
    update.event = (Kd__Event *)event; /* only read */
    update.has_missed = w->n_missed > 0;
    update.missed = w->n_missed;
    w->n_missed = 0;
    reply.more = !last;
    reply.body_case = KD__REPLY__BODY_UPDATE;
    reply.update = &update;
    session_reply(w->stream.session, w->stream.request_id, &reply);
}

static void resume(stream *st)
{
    watcher *w = (watcher *)st;
    if (w->over) {
        send_update(w, NULL, true);
        stream_end(st);
    } else if (w->n_missed > 0) {
        send_update(w, NULL, false);
    }
}

void watch_begin(session *s, uint64_t request_id, entry *e)
{
    const bool over = job_state_is_final(e->shown);
    watcher *w = calloc(1, sizeof *w);
    if (w == NULL) {
        session_refuse(s, request_id, KD__ERROR__CODE__INTERNAL, "no memory", NULL);
        return;
    }
    w->stream.resume = resume;
    w->stream.destroy = leave;
    w->entry = e;
    w->next = e->watchers;
    e->watchers = w;
    stream_begin(&w->stream, s, request_id);
    send_update(w, NULL, over);
    if (over) {
        stream_end(&w->stream);
    }
}

void watch_notify(entry *e, Kd__Event *event)
{
    const bool over = event != NULL && job_state_is_final((job_state)event->state);
    for (watcher *w = e->watchers, *next; w != NULL; w = next) {
        next = w->next;
        if (!session_has_room(w->stream.session)) {
            w->n_missed++;
            w->over = w->over || over;
            continue;
        }
        send_update(w, event, over);
        if (over) {
            stream_end(&w->stream);
        }
    }
}
