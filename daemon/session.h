/*
 * session.h - one person's connection: each Request is answered by one Reply, or by a stream of them.
 *
 * A session outlives its connection while the store or a pool thread holds something of it; answers
 * then go nowhere. A stream sends while there is room, and is resumed when the kernel has taken
 * what was sent. While there is no room no further requests are read; so a slow reader costs the
 * daemon little more than SESSION_ROOM_BYTES.
 */
#ifndef KD_DAEMON_SESSION_H
#define KD_DAEMON_SESSION_H

#include "daemon/coordinator.h"
#include "daemon/server.h"

#define SESSION_ROOM_BYTES  (256u << 10)
#define SESSION_PENDING_MAX 1024 /* requests of one connection that wait for the disk */
#define SESSION_STREAMS_MAX 64   /* answers of one connection that are under way      */

typedef struct session session;

/* A request that is answered piece by piece. The first member of whatever it is. */
typedef struct stream {
    session *session;
    uint64_t request_id;
    void (*resume)(struct stream *s);  /* there may be room again                     */
    void (*destroy)(struct stream *s); /* the connection is gone, or stream_end() was called */
    struct stream *next;
} stream;

/* NULL without memory. */
session *session_open(coordinator *co, kd_connection *c);
extern const peer_handler session_handler;

coordinator *session_coordinator(const session *s);

/* For what comes back later: hold before, and let go after the answer. */
void session_hold(session *s);
void session_let_go(session *s);

void session_reply(session *s, uint64_t request_id, Kd__Reply *reply);
/* `field` may be NULL. */
void session_refuse(session *s,
                    uint64_t request_id,
                    Kd__Error__Code code,
                    const char *text,
                    const char *field);
/* The job as the answer; `with_text` adds the job itself. */
void session_reply_status(session *s, uint64_t request_id, const entry *e, bool with_text);

bool session_has_room(const session *s);
void stream_begin(stream *st, session *s, uint64_t request_id);
/* Destroys the stream. */
void stream_end(stream *st);

/* submit.c: takes request->job over. */
void session_submit(session *person, uint64_t request_id, Kd__SubmitRequest *request);
/* history.c */
void session_list(session *s, uint64_t request_id);
void session_events(session *s, uint64_t request_id, const entry *e);
void session_metrics(session *s, uint64_t request_id, const entry *e, uint64_t from_step);
/* logs.c */
void session_logs(session *s, uint64_t request_id, const entry *e, bool follow);

#endif
