/*
 * watch.h - those who watch a job. A watcher is a stream that gets every event and every step while
 * there is room, and otherwise counts what it missed and is told the number with the next update.
 */
#ifndef KD_DAEMON_WATCH_H
#define KD_DAEMON_WATCH_H

#include "daemon/session.h"

/* Sends where the job stands; the stream ends with the job. */
void watch_begin(session *s, uint64_t request_id, entry *e);

/* To all watchers of the job: it changed; `event` is NULL if it was a step. */
void watch_notify(entry *e, Kd__Event *event);

#endif
