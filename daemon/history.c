/*
 * history.c - answers that may be long, a page at a time: the list of jobs, a job's events, its steps.
 * A page is read when there is room for it.
 */
#include <stdlib.h>

#include "daemon/session.h"

#define LIST_PAGE  256
#define EVENT_PAGE 512
#define STEP_PAGE  1024

typedef struct pager {
    stream stream;
    coordinator *co;
    uint64_t job_id;
    uint64_t from; /* the next job's id, the last event's number, or the next step */
    bool reading;  /* the store has a request of ours */
    bool orphan;   /* the stream ended meanwhile */
    /* True if another page may follow at once; otherwise the pager reads, or is gone. */
    bool (*send_page)(struct pager *p);
} pager;

static void resume(stream *st)
{
    pager *p = (pager *)st;
    bool go_on = !p->reading;
    while (go_on && session_has_room(st->session)) {
        go_on = p->send_page(p);
    }
}

static void destroy(stream *st)
{
    pager *p = (pager *)st;
    p->orphan = p->reading;
    if (!p->reading) {
        free(p);
    }
}

static void begin(session *s, uint64_t request_id, pager values)
{
    pager *p = malloc(sizeof *p);
    if (p == NULL) {
        session_refuse(s, request_id, KD__ERROR__CODE__INTERNAL, "no memory", NULL);
        return;
    }
    *p = values;
    p->co = session_coordinator(s);
    p->stream.resume = resume;
    p->stream.destroy = destroy;
    stream_begin(&p->stream, s, request_id);
    resume(&p->stream);
}

/* Ends the stream with the last page; returns `more`. */
static bool reply_page(pager *p, Kd__Reply *reply, bool more)
{
    reply->more = more;
    session_reply(p->stream.session, p->stream.request_id, reply);
    if (!more) {
        stream_end(&p->stream);
    }
    return more;
}

static bool send_jobs(pager *p)
{
    Kd__JobStatus statuses[LIST_PAGE];
    Kd__JobStatus *pointers[LIST_PAGE];
    Kd__JobList list = KD__JOB_LIST__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    const uint64_t last = jobs_next_id(&p->co->jobs) - 1;
    for (; p->from <= last && list.n_jobs < LIST_PAGE; p->from++) {
        const entry *e = jobs_find(&p->co->jobs, p->from);
        if (e != NULL && e->durable) {
            entry_status(e, &statuses[list.n_jobs]);
            pointers[list.n_jobs] = &statuses[list.n_jobs];
            list.n_jobs++;
        }
    }
    list.jobs = pointers;
    reply.body_case = KD__REPLY__BODY_LIST;
    reply.list = &list;
    return reply_page(p, &reply, p->from <= last);
}

void session_list(session *s, uint64_t request_id)
{
    begin(s, request_id, (pager){.from = 1, .send_page = send_jobs});
}

/* True if the page may be sent; otherwise the pager is gone. */
static bool take_answer(pager *p, kd_status st)
{
    p->reading = false;
    if (p->orphan) {
        free(p);
        return false;
    }
    if (st) {
        stream_end(&p->stream); /* the store has failed, and the daemon ends */
        return false;
    }
    return true;
}

static void on_events(void *context, kd_status st, const store_event *events, size_t n)
{
    pager *p = context;
    Kd__Event messages[EVENT_PAGE];
    Kd__Event *pointers[EVENT_PAGE];
    Kd__EventList list = KD__EVENT_LIST__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    if (!take_answer(p, st)) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        Kd__Event *m = &messages[i];
        kd__event__init(m);
        m->has_seq = m->has_job_id = m->has_time = m->has_state = 1;
        m->seq = events[i].seq;
        m->job_id = events[i].job_id;
        m->time = events[i].time;
        m->kind = (char *)events[i].kind; /* only read */
        m->text = (char *)events[i].text; /* only read */
        m->state = (Kd__JobState)events[i].state;
        pointers[i] = m;
        p->from = events[i].seq;
    }
    list.n_events = n;
    list.events = pointers;
    reply.body_case = KD__REPLY__BODY_EVENTS;
    reply.events = &list;
    if (reply_page(p, &reply, n == EVENT_PAGE)) {
        resume(&p->stream);
    }
}

static bool send_events(pager *p)
{
    p->reading = true;
    if (store_read_events(p->co->store, p->job_id, p->from, EVENT_PAGE, on_events, p)) {
        p->reading = false;
        stream_end(&p->stream);
    }
    return false;
}

void session_events(session *s, uint64_t request_id, const entry *e)
{
    begin(s, request_id, (pager){.job_id = e->job.id, .send_page = send_events});
}

static void on_steps(void *context, kd_status st, const store_step *steps, size_t n)
{
    pager *p = context;
    Kd__StepMetrics *messages[STEP_PAGE];
    Kd__MetricsList list = KD__METRICS_LIST__INIT;
    Kd__Reply reply = KD__REPLY__INIT;
    if (!take_answer(p, st)) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        Kd__StepMetrics *m = kd__step_metrics__unpack(NULL, steps[i].n_bytes, steps[i].bytes);
        if (m != NULL) {
            messages[list.n_steps++] = m;
        }
        p->from = steps[i].step + 1;
    }
    list.steps = messages;
    reply.body_case = KD__REPLY__BODY_METRICS;
    reply.metrics = &list;
    const size_t n_messages = list.n_steps;
    const bool more = reply_page(p, &reply, n == STEP_PAGE);
    for (size_t i = 0; i < n_messages; i++) {
        kd__step_metrics__free_unpacked(messages[i], NULL);
    }
    if (more) {
        resume(&p->stream);
    }
}

static bool send_steps(pager *p)
{
    p->reading = true;
    if (store_read_steps(p->co->store, p->job_id, p->from, STEP_PAGE, on_steps, p)) {
        p->reading = false;
        stream_end(&p->stream);
    }
    return false;
}

void session_metrics(session *s, uint64_t request_id, const entry *e, uint64_t from_step)
{
    begin(s, request_id, (pager){.job_id = e->job.id, .from = from_step, .send_page = send_steps});
}
