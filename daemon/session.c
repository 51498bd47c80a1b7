/*
 * session.c - a request is looked up here and answered elsewhere. What is under way holds the session, so
 * that an answer that comes after its reader left has somewhere to go.
 */
#include "daemon/session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "daemon/run.h"
#include "daemon/watch.h"

struct session {
    kd_connection *c; /* NULL once closed */
    coordinator *co;
    uint32_t n_held; /* by the store and pool threads */
    uint32_t n_streams;
    stream *streams;
};

session *session_open(coordinator *co, kd_connection *c)
{
    session *s = calloc(1, sizeof *s);
    if (s != NULL) {
        *s = (session){.c = c, .co = co};
    }
    return s;
}

coordinator *session_coordinator(const session *s)
{
    return s->co;
}

void session_hold(session *s)
{
    s->n_held++;
}

void session_let_go(session *s)
{
    KD_CHECK(s->n_held > 0);
    if (--s->n_held == 0 && s->c == NULL) {
        free(s);
    }
}

void session_reply(session *s, uint64_t request_id, Kd__Reply *reply)
{
    reply->has_id = 1;
    reply->id = request_id;
    reply->has_more = reply->more;
    if (s->c != NULL && kd_connection_send(s->c, &reply->base)) {
        kd_connection_close(s->c);
    }
}

void session_refuse(session *s,
                    uint64_t request_id,
                    Kd__Error__Code code,
                    const char *text,
                    const char *field)
{
    Kd__Error error = KD__ERROR__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    error.has_code = 1;
    error.code = code;
    error.text = (char *)text;   /* only read */
    error.field = (char *)field; /* only read */
    reply.error = &error;
    session_reply(s, request_id, &reply);
}

void session_reply_status(session *s, uint64_t request_id, const entry *e, bool with_text)
{
    Kd__JobStatus status;
    Kd__Reply reply = KD__REPLY__INIT;
    entry_status(e, &status);
    status.job = with_text ? entry_unpack(e) : NULL;
    if (with_text && e->run != NULL) {
        status.ranks = run_places(e->run, &status.n_ranks);
    }
    reply.body_case = KD__REPLY__BODY_STATUS;
    reply.status = &status;
    session_reply(s, request_id, &reply);
    free(status.ranks);
    kd__job__free_unpacked(status.job, NULL);
}

bool session_has_room(const session *s)
{
    return s->c != NULL && kd_connection_queued_bytes(s->c) < SESSION_ROOM_BYTES;
}

void stream_begin(stream *st, session *s, uint64_t request_id)
{
    st->session = s;
    st->request_id = request_id;
    st->next = s->streams;
    s->streams = st;
    s->n_streams++;
}

void stream_end(stream *st)
{
    stream **at = &st->session->streams;
    while (*at != st) {
        at = &(*at)->next;
    }
    *at = st->next;
    st->session->n_streams--;
    st->destroy(st);
}

/* A job that was not acknowledged yet does not exist for anyone. */
static entry *find_job(session *s, uint64_t request_id, uint64_t job_id)
{
    entry *e = jobs_find(&s->co->jobs, job_id);
    if (e != NULL && e->durable) {
        return e;
    }
    char text[64];
    (void)snprintf(text, sizeof text, "no job %" PRIu64, job_id);
    session_refuse(s, request_id, KD__ERROR__CODE__NOT_FOUND, text, NULL);
    return NULL;
}

typedef struct cancellation {
    session *session;
    uint64_t request_id;
    entry *entry;
} cancellation;

static void on_cancel_saved(void *context, kd_status st)
{
    cancellation *c = context;
    if (st == KD_OK) {
        session_reply_status(c->session, c->request_id, c->entry, false);
    }
    session_let_go(c->session);
    free(c);
}

static void cancel(session *s, uint64_t request_id, entry *e)
{
    coordinator *co = s->co;
    cancellation *c = malloc(sizeof *c);
    if (c == NULL) {
        session_refuse(s, request_id, KD__ERROR__CODE__INTERNAL, "no memory", NULL);
        return;
    }
    *c = (cancellation){.session = s, .request_id = request_id, .entry = e};
    if (coordinator_apply(co, e, JOB_EV_CANCEL, e->reason)) {
        char text[128];
        (void)snprintf(text, sizeof text,
                       "job %" PRIu64 ": found it %s, expected one that is not over", e->job.id,
                       job_state_name(e->job.state));
        session_refuse(s, request_id, KD__ERROR__CODE__CONFLICT, text, NULL);
        free(c);
        return;
    }
    if (store_barrier(co->store, on_cancel_saved, c)) {
        free(c);
        coordinator_fail(co);
    } else {
        session_hold(s); /* until the callback, which never comes before this */
    }
    coordinator_schedule(co); /* others may have their turn now */
}

static void pong(session *s, uint64_t request_id)
{
    Kd__Reply reply = KD__REPLY__INIT;
    session_reply(s, request_id, &reply);
}

/* Requests that name a job. */
static void on_job_request(session *s, const Kd__Request *request, uint64_t job_id)
{
    entry *e = find_job(s, request->id, job_id);
    if (e == NULL) {
        return;
    }
    switch (request->body_case) {
    case KD__REQUEST__BODY_SHOW:
        session_reply_status(s, request->id, e, true);
        return;
    case KD__REQUEST__BODY_WATCH:
        watch_begin(s, request->id, e);
        return;
    case KD__REQUEST__BODY_CANCEL:
        cancel(s, request->id, e);
        return;
    case KD__REQUEST__BODY_EVENTS:
        session_events(s, request->id, e);
        return;
    case KD__REQUEST__BODY_METRICS:
        session_metrics(s, request->id, e, request->metrics->from_step);
        return;
    case KD__REQUEST__BODY_LOGS:
        session_logs(s, request->id, e, request->logs->follow);
        return;
    case KD__REQUEST__BODY_SUBMIT:
    case KD__REQUEST__BODY_LIST:
    case KD__REQUEST__BODY_PING:
    case KD__REQUEST__BODY__NOT_SET:
    case _KD__REQUEST__BODY__CASE_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a request that names a job");
}

/* NULL: it may be answered. */
static const char *find_refusal(const session *s, const Kd__Request *request)
{
    if (request->id == 0) {
        return "request.id: found 0, expected another number";
    }
    if (s->n_held >= SESSION_PENDING_MAX) {
        return "too many requests of this connection wait for the disk";
    }
    return s->n_streams >= SESSION_STREAMS_MAX ? "too many answers of this connection are under way"
                                               : NULL;
}

static void on_request(session *s, Kd__Request *request)
{
    const uint64_t id = request->id;
    const char *refusal = find_refusal(s, request);
    kd_log(KD_LOG_DEBUG, "request %" PRIu64 ": kind %d%s%s", id, (int)request->body_case,
           refusal ? ", refused: " : "", refusal ? refusal : "");
    if (refusal != NULL) {
        session_refuse(s, id, KD__ERROR__CODE__REFUSED, refusal, NULL);
        return;
    }
    switch (request->body_case) {
    case KD__REQUEST__BODY_SUBMIT:
        session_submit(s, id, request->submit);
        return;
    case KD__REQUEST__BODY_LIST:
        session_list(s, id);
        return;
    case KD__REQUEST__BODY_SHOW:
        on_job_request(s, request, request->show->job_id);
        return;
    case KD__REQUEST__BODY_WATCH:
        on_job_request(s, request, request->watch->job_id);
        return;
    case KD__REQUEST__BODY_CANCEL:
        on_job_request(s, request, request->cancel->job_id);
        return;
    case KD__REQUEST__BODY_EVENTS:
        on_job_request(s, request, request->events->job_id);
        return;
    case KD__REQUEST__BODY_METRICS:
        on_job_request(s, request, request->metrics->job_id);
        return;
    case KD__REQUEST__BODY_LOGS:
        on_job_request(s, request, request->logs->job_id);
        return;
    case KD__REQUEST__BODY_PING:
        pong(s, id);
        return;
    case KD__REQUEST__BODY__NOT_SET:
    case _KD__REQUEST__BODY__CASE_IS_INT_SIZE:
        break;
    }
    session_refuse(s, id, KD__ERROR__CODE__INVALID, "request: found none that this distilld knows",
                   NULL);
}

static void on_frame(void *user, const uint8_t *payload, size_t size_bytes)
{
    session *s = user;
    Kd__Request *request = kd__request__unpack(NULL, size_bytes, payload);
    if (request == NULL) {
        (void)kd_fail(KD_ERR_PROTO, "a frame of %zu bytes is no request", size_bytes);
        session_refuse(s, 0, KD__ERROR__CODE__INVALID, kd_fault_text(), NULL);
        kd_connection_close_after_flush(s->c);
        return;
    }
    on_request(s, request);
    kd__request__free_unpacked(request, NULL);
    if (!session_has_room(s)) {
        kd_connection_pause(s->c);
    }
}

static void on_drained(void *user)
{
    session *s = user;
    session_hold(s);
    for (stream *st = s->streams, *next; st != NULL; st = next) {
        next = st->next; /* a stream that is resumed may end itself, but no other */
        st->resume(st);
    }
    if (session_has_room(s)) {
        kd_connection_resume(s->c);
    }
    session_let_go(s);
}

static void on_closed(void *user)
{
    session *s = user;
    s->c = NULL;
    session_hold(s);
    while (s->streams != NULL) {
        stream_end(s->streams);
    }
    session_let_go(s);
}

const peer_handler session_handler = {.on_frame = on_frame,
                                      .on_drained = on_drained,
                                      .on_closed = on_closed};
