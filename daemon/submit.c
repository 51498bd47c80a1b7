/*
 * submit.c - from a SubmitRequest to a job in the queue: completed, checked, its files looked at on a
 * pool thread, written to the store, and only then acknowledged.
 */
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "daemon/session.h"
#include "job/job.h"
#include "message/reflect.h"

#define TOKEN_BYTES_MAX 256

typedef struct submission {
    uv_work_t work;
    session *session;
    uint64_t request_id;
    Kd__Job *spec;
    char *token; /* NULL: none */
    entry *entry;
    char **made_later; /* (n_made_later) output folders of unfinished jobs it comes after */
    size_t n_made_later;
    kd_status status;
    char fault[1024];
} submission;

static void submission_destroy(submission *s)
{
    for (size_t i = 0; i < s->n_made_later; i++) {
        free(s->made_later[i]);
    }
    free(s->made_later);
    kd__job__free_unpacked(s->spec, NULL);
    free(s->token);
    session_let_go(s->session);
    free(s);
}

/* A mistake's text starts with its field's path, up to the first colon. */
static void refuse_job(session *s, uint64_t request_id, const char *text)
{
    char field[128];
    size_t n = 0;
    while (islower((unsigned char)text[n]) || isdigit((unsigned char)text[n]) || text[n] == '_' ||
           text[n] == '.') {
        n++;
    }
    const bool has_field = n > 0 && n < sizeof field && text[n] == ':';
    (void)snprintf(field, sizeof field, "%.*s", has_field ? (int)n : 0, text);
    session_refuse(s, request_id, KD__ERROR__CODE__INVALID, text, has_field ? field : NULL);
}

/* A disk that fails and a lack of memory are faults of this host: the same job may pass later. */
static void refuse(session *s, uint64_t request_id, kd_status st, const char *text)
{
    if (kd_status_is_of_host(st)) {
        kd_log(KD_LOG_ERROR, "a job could not be checked: %s", text);
        session_refuse(s, request_id, KD__ERROR__CODE__INTERNAL, text, NULL);
    } else {
        refuse_job(s, request_id, text);
    }
}

static void on_saved(void *context, kd_status st)
{
    submission *s = context;
    coordinator *co = session_coordinator(s->session);
    if (st == KD_OK) { /* otherwise the daemon ends, and acknowledges nothing */
        coordinator_accept(co, s->entry, s->spec);
        session_reply_status(s->session, s->request_id, s->entry, false);
        coordinator_schedule(co);
    }
    submission_destroy(s);
}

static void on_known_saved(void *context, kd_status st)
{
    submission *s = context;
    if (st == KD_OK) {
        session_reply_status(s->session, s->request_id, s->entry, false);
    }
    submission_destroy(s);
}

/* The job of a repeated token, once it is on disk. */
static void answer_known(submission *s, entry *e)
{
    coordinator *co = session_coordinator(s->session);
    s->entry = e;
    if (store_barrier(co->store, on_known_saved, s)) {
        submission_destroy(s);
        coordinator_fail(co);
    }
}

static kd_status make_entry(submission *s, coordinator *co)
{
    Kd__Job *spec = s->spec;
    const uint64_t id = jobs_next_id(&co->jobs);
    char id_text[24];
    (void)snprintf(id_text, sizeof id_text, "%" PRIu64, id);
    if (spec->name == NULL && (spec->name = strdup(id_text)) == NULL) {
        return kd_fail(KD_ERR_NOMEM, "job %s: no memory", id_text);
    }
    const size_t spec_bytes = kd__job__get_packed_size(spec);
    uint8_t *packed = malloc(spec_bytes + 1);
    if (packed == NULL) {
        return kd_fail(KD_ERR_NOMEM, "job %s: no memory", id_text);
    }
    (void)kd__job__pack(spec, packed);
    const store_job row = {
        .job = {.id = id, .state = JOB_QUEUED, .max_restarts = spec->limits->max_restarts},
        .token = s->token,
        .spec = packed,
        .spec_bytes = spec_bytes,
        .name = spec->name,
        .output = spec->output,
        .steps = spec->training->steps,
        .submitted_at = kd_clock_wall_s(),
        .test_loss = (double)NAN,
        .test_accuracy = (double)NAN};
    const kd_status st = jobs_add(&co->jobs, &row, &s->entry);
    free(packed);
    if (st == KD_OK) {
        scheduler_item_init(&s->entry->item, id, kd_job_slots(spec));
    }
    return st;
}

static void enter_job(submission *s)
{
    session *person = s->session;
    coordinator *co = session_coordinator(person);
    entry *known = s->token == NULL ? NULL : jobs_find_token(&co->jobs, s->token);
    if (known != NULL) { /* the same submit came twice while its files were looked at */
        answer_known(s, known);
        return;
    }
    if (make_entry(s, co)) {
        session_refuse(person, s->request_id, KD__ERROR__CODE__INTERNAL, kd_fault_text(), NULL);
        submission_destroy(s);
    } else if (coordinator_submit(co, s->entry, on_saved, s)) {
        submission_destroy(s);
        coordinator_fail(co);
    }
}

static void on_checked(uv_work_t *work, int status)
{
    submission *s = work->data;
    coordinator *co = session_coordinator(s->session);
    co->n_on_pool--;
    if (status != 0 || co->over) {
        submission_destroy(s);
    } else if (s->status) {
        refuse(s->session, s->request_id, s->status, s->fault);
        submission_destroy(s);
    } else {
        enter_job(s);
    }
}

/* The first name in a path, and its length, 0 at the end; slashes and "." between names are none. */
static const char *next_name(const char *path, size_t *n_out)
{
    path += strspn(path, "/");
    while (path[0] == '.' && (path[1] == '/' || path[1] == '\0')) {
        path++;
        path += strspn(path, "/");
    }
    *n_out = strcspn(path, "/");
    return path;
}

/* Whether a path is a folder's, or of something in it, by the names in them: neither may be there yet. */
static bool is_within(const char *path, const char *folder)
{
    for (;;) {
        size_t n, n_folder;
        path = next_name(path, &n);
        folder = next_name(folder, &n_folder);
        if (n_folder == 0) {
            return true;
        }
        if (n != n_folder || memcmp(path, folder, n) != 0) {
            return false;
        }
        path += n;
        folder += n;
    }
}

static bool is_made_later(const submission *s, const char *path)
{
    for (size_t i = 0; path != NULL && i < s->n_made_later; i++) {
        if (is_within(path, s->made_later[i])) {
            return true;
        }
    }
    return false;
}

/* What a job before this one will write cannot be looked at yet; the launch does. */
static void forget_what_comes_later(const submission *s, Kd__Job *spec)
{
    size_t n_kept = 0;
    for (size_t i = 0; i < spec->n_teachers; i++) {
        if (is_made_later(s, spec->teachers[i]->checkpoint)) {
            kd__teacher__free_unpacked(spec->teachers[i], NULL);
        } else {
            spec->teachers[n_kept++] = spec->teachers[i];
        }
    }
    spec->n_teachers = n_kept;
    if (is_made_later(s, spec->student->checkpoint)) {
        free(spec->student->checkpoint);
        spec->student->checkpoint = NULL;
        spec->student->init = KD__STUDENT__INIT__RANDOM;
    }
}

/* On a pool thread. */
static void check_files(uv_work_t *work)
{
    submission *s = work->data;
    kd_fault_quiet(1);
    Kd__Job *spec = (Kd__Job *)kd_message_copy(&s->spec->base);
    if (spec == NULL) {
        s->status = kd_fail(KD_ERR_NOMEM, "no memory to check the job");
    } else {
        forget_what_comes_later(s, spec);
        s->status = kd_job_check_files(spec);
    }
    kd__job__free_unpacked(spec, NULL);
    if (s->status) {
        (void)snprintf(s->fault, sizeof s->fault, "%s", kd_fault_text());
    }
    kd_fault_quiet(0);
}

static kd_status check_one_after(submission *s, const coordinator *co, size_t i)
{
    const char *text = s->spec->after[i];
    char *end;
    const uint64_t id = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    const entry *first = id == 0 || *end != '\0' ? NULL : jobs_find(&co->jobs, id);
    if (first == NULL || !first->durable) {
        return kd_fail(KD_ERR_INVALID, "after.%zu: found \"%.64s\", expected the id of a job", i,
                       text);
    }
    if (first->job.state == JOB_FAILED || first->job.state == JOB_CANCELLED) {
        return kd_fail(KD_ERR_INVALID,
                       "after.%zu: found job %" PRIu64
                       ", which is %s, expected one that can still succeed",
                       i, id, job_state_name(first->job.state));
    }
    if (first->job.state != JOB_SUCCEEDED) {
        char *output = strdup(first->output);
        if (output == NULL) {
            return kd_fail(KD_ERR_NOMEM, "no memory to check the job");
        }
        s->made_later[s->n_made_later++] = output;
    }
    return KD_OK;
}

static kd_status check_after(submission *s, const coordinator *co)
{
    s->made_later = calloc(s->spec->n_after + 1, sizeof(char *));
    if (s->made_later == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to check the job");
    }
    kd_status st = KD_OK;
    for (size_t i = 0; st == KD_OK && i < s->spec->n_after; i++) {
        st = check_one_after(s, co, i);
    }
    return st;
}

static kd_status check_slots(const Kd__Job *spec, const coordinator *co)
{
    const uint64_t slots = kd_job_slots(spec);
    if (slots <= co->scheduler.n_slots) {
        return KD_OK;
    }
    return kd_fail(KD_ERR_INVALID,
                   "student.resources: found %u ranks on %" PRIu64
                   " slots, teachers included, expected at most %" PRIu64 " (this daemon's slots)",
                   kd_job_ranks(spec), slots, co->scheduler.n_slots);
}

static kd_status check_job(submission *s, const coordinator *co)
{
    if (s->token != NULL && (s->token[0] == '\0' || strlen(s->token) > TOKEN_BYTES_MAX)) {
        return kd_fail(KD_ERR_INVALID, "token: found %zu bytes, expected 1 to %d", strlen(s->token),
                       TOKEN_BYTES_MAX);
    }
    if (s->spec == NULL) {
        return kd_fail(KD_ERR_INVALID, "submit: found no job");
    }
    kd_status st = kd_job_check_lengths(s->spec); /* this is the loop's thread */
    if (st == KD_OK) {
        st = kd_job_complete(s->spec);
    }
    if (st == KD_OK) {
        st = kd_job_check(s->spec, NULL);
    }
    if (st == KD_OK) {
        st = check_slots(s->spec, co);
    }
    return st ? st : check_after(s, co);
}

static submission *create(session *person, uint64_t request_id, Kd__SubmitRequest *request)
{
    submission *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return NULL;
    }
    *s = (submission){
        .session = person, .request_id = request_id, .spec = request->job, .token = request->token};
    s->work.data = s;
    request->job = NULL;
    request->token = NULL;
    session_hold(person);
    return s;
}

void session_submit(session *person, uint64_t request_id, Kd__SubmitRequest *request)
{
    coordinator *co = session_coordinator(person);
    submission *s = create(person, request_id, request);
    if (s == NULL) {
        session_refuse(person, request_id, KD__ERROR__CODE__INTERNAL, "no memory", NULL);
        return;
    }
    if (co->stopping) {
        session_refuse(person, request_id, KD__ERROR__CODE__REFUSED, "this distilld is stopping",
                       NULL);
        submission_destroy(s);
        return;
    }
    entry *known = s->token == NULL ? NULL : jobs_find_token(&co->jobs, s->token);
    if (known != NULL) {
        answer_known(s, known);
        return;
    }
    kd_fault_quiet(1);
    const kd_status st = check_job(s, co);
    kd_fault_quiet(0);
    if (st) {
        refuse(person, request_id, st, kd_fault_text());
        submission_destroy(s);
    } else if (uv_queue_work(co->loop, &s->work, check_files, on_checked) != 0) {
        session_refuse(person, request_id, KD__ERROR__CODE__INTERNAL, "no thread", NULL);
        submission_destroy(s);
    } else {
        co->n_on_pool++;
    }
}
