/*
 * jobs.c - every job in memory, packed: status is asked for a hundred thousand times a second, and the
 * disk is only read at the start. Ids ascend, so the table is an array; tokens have a hash.
 */
#include "daemon/jobs.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

_Static_assert((int)JOB_QUEUED == (int)KD__JOB_STATE__QUEUED &&
                   (int)JOB_STARTING == (int)KD__JOB_STATE__STARTING &&
                   (int)JOB_RUNNING == (int)KD__JOB_STATE__RUNNING &&
                   (int)JOB_SUCCEEDED == (int)KD__JOB_STATE__SUCCEEDED &&
                   (int)JOB_FAILED == (int)KD__JOB_STATE__FAILED &&
                   (int)JOB_CANCELLED == (int)KD__JOB_STATE__CANCELLED,
               "the protocol's states are the job's");

static kd_status no_memory(uint64_t id)
{
    return kd_fail(KD_ERR_NOMEM, "job %" PRIu64 ": no memory", id);
}

static void entry_destroy(entry *e)
{
    if (e == NULL) {
        return;
    }
    scheduler_item_release(&e->item);
    if (e->last != NULL) {
        kd__step_metrics__free_unpacked(e->last, NULL);
    }
    free(e->last_packed);
    free(e->token);
    free(e->spec);
    free(e->name);
    free(e->output);
    free(e->reason);
    free(e);
}

void jobs_release(job_table *table)
{
    for (size_t i = 0; i < table->n; i++) {
        entry_destroy(table->by_id[i]);
    }
    free(table->by_id);
    free(table->by_token);
    *table = (job_table){0};
}

entry *jobs_find(const job_table *table, uint64_t id)
{
    return id == 0 || id > table->n ? NULL : table->by_id[id - 1];
}

uint64_t jobs_next_id(const job_table *table)
{
    return table->n + 1;
}

/* FNV-1a. Tokens come from clients that may all submit anyway, so no key is needed. */
static size_t bucket_of(const job_table *table, const char *token)
{
    uint64_t hash = 14695981039346656037u;
    for (; *token != '\0'; token++) {
        hash = (hash ^ (uint8_t)*token) * 1099511628211u;
    }
    return (size_t)(hash % table->n_buckets);
}

entry *jobs_find_token(const job_table *table, const char *token)
{
    if (table->n_buckets == 0) {
        return NULL;
    }
    entry *e = table->by_token[bucket_of(table, token)];
    while (e != NULL && strcmp(e->token, token) != 0) {
        e = e->next_by_token;
    }
    return e;
}

static void link_token(job_table *table, entry *e)
{
    entry **bucket = &table->by_token[bucket_of(table, e->token)];
    e->next_by_token = *bucket;
    *bucket = e;
}

static kd_status reserve_tokens(job_table *table)
{
    if (table->n_tokens < table->n_buckets) {
        return KD_OK;
    }
    const size_t wanted = table->n_buckets == 0 ? 64 : 4 * table->n_buckets;
    entry **buckets = calloc(wanted, sizeof(entry *));
    if (buckets == NULL) {
        return no_memory(jobs_next_id(table));
    }
    free(table->by_token);
    table->by_token = buckets;
    table->n_buckets = wanted;
    for (size_t i = 0; i < table->n; i++) {
        if (table->by_id[i] != NULL && table->by_id[i]->token != NULL) {
            link_token(table, table->by_id[i]);
        }
    }
    return KD_OK;
}

static kd_status reserve_id(job_table *table, uint64_t id)
{
    if (id <= table->max) {
        return KD_OK;
    }
    const size_t wanted = id < 64 ? 64 : 2 * (size_t)id;
    entry **grown = realloc(table->by_id, wanted * sizeof(entry *));
    if (grown == NULL) {
        return no_memory(id);
    }
    table->by_id = grown;
    table->max = wanted;
    return KD_OK;
}

static kd_status set_last_packed(entry *e, const uint8_t *bytes, size_t n_bytes)
{
    uint8_t *copy = malloc(n_bytes + 1);
    if (copy == NULL) {
        return no_memory(e->job.id);
    }
    memcpy(copy, bytes, n_bytes);
    free(e->last_packed);
    e->last_packed = copy;
    e->last_packed_bytes = n_bytes;
    return KD_OK;
}

static kd_status copy_row(entry *e, const store_job *row)
{
    e->job = row->job;
    e->shown = row->job.state;
    e->token = row->token == NULL ? NULL : strdup(row->token);
    e->name = strdup(row->name);
    e->output = strdup(row->output);
    e->reason = strdup(row->reason == NULL ? "" : row->reason);
    e->spec = malloc(row->spec_bytes + 1);
    if (e->name == NULL || e->output == NULL || e->reason == NULL || e->spec == NULL ||
        (row->token != NULL && e->token == NULL)) {
        return no_memory(row->job.id);
    }
    if (row->spec_bytes > 0) {
        memcpy(e->spec, row->spec, row->spec_bytes);
    }
    e->spec_bytes = row->spec_bytes;
    e->steps = row->steps;
    e->step = row->step;
    e->submitted_at = row->submitted_at;
    e->started_at = row->started_at;
    e->finished_at = row->finished_at;
    e->test_loss = row->test_loss;
    e->test_accuracy = row->test_accuracy;
    e->launcher_pid = row->launcher_pid;
    e->launcher_start = row->launcher_start;
    memcpy(e->secret, row->secret, sizeof e->secret);
    if (row->last_step_bytes == 0) {
        return KD_OK;
    }
    e->last = kd__step_metrics__unpack(NULL, row->last_step_bytes, row->last_step);
    return set_last_packed(e, row->last_step, row->last_step_bytes);
}

kd_status jobs_add(job_table *table, const store_job *row, entry **entry_out)
{
    const uint64_t id = row->job.id;
    if (id < jobs_next_id(table) || id > UINT32_MAX) {
        return kd_fail(KD_ERR_PROTO, "job %" PRIu64 ": expected an id from %" PRIu64 " to %u", id,
                       jobs_next_id(table), UINT32_MAX);
    }
    kd_status st = reserve_id(table, id);
    if (st == KD_OK && row->token != NULL) {
        st = reserve_tokens(table);
    }
    entry *e = st ? NULL : calloc(1, sizeof *e);
    if (e == NULL) {
        return st ? st : no_memory(id);
    }
    st = copy_row(e, row);
    if (st) {
        entry_destroy(e);
        return st;
    }
    while (table->n < id) {
        table->by_id[table->n++] = NULL;
    }
    table->by_id[id - 1] = e;
    if (e->token != NULL) {
        link_token(table, e);
        table->n_tokens++;
    }
    *entry_out = e;
    return KD_OK;
}

void entry_row(const entry *e, store_job *row_out)
{
    *row_out = (store_job){.job = e->job,
                           .token = e->token,
                           .spec = e->spec,
                           .spec_bytes = e->spec_bytes,
                           .name = e->name,
                           .output = e->output,
                           .steps = e->steps,
                           .reason = e->reason,
                           .step = e->step,
                           .last_step = e->last_packed,
                           .last_step_bytes = e->last_packed_bytes,
                           .submitted_at = e->submitted_at,
                           .started_at = e->started_at,
                           .finished_at = e->finished_at,
                           .test_loss = e->test_loss,
                           .test_accuracy = e->test_accuracy,
                           .launcher_pid = e->launcher_pid,
                           .launcher_start = e->launcher_start};
    memcpy(row_out->secret, e->secret, sizeof e->secret);
}

/* Sets an optional field of the message, so that absent stays absent. */
#define SET(message, field, value) ((message)->has_##field = 1, (message)->field = (value))

static void put_last(const entry *e, Kd__JobStatus *status)
{
    if (e->last == NULL) {
        return;
    }
    status->losses = e->last->losses;
    status->n_losses = e->last->n_losses;
    if (e->last->has_loss) {
        SET(status, loss, e->last->loss);
    }
    const double rate =
        e->metrics.n_reports > 0 ? e->metrics.tokens_per_second : e->last->tokens_per_second;
    SET(status, tokens_per_second, rate);
    double eta_seconds;
    if (job_state_is_final(e->shown)) {
        SET(status, eta_seconds, 0.0);
    } else if (e->run != NULL && metrics_eta(&e->metrics, e->steps, &eta_seconds)) {
        SET(status, eta_seconds, eta_seconds);
    }
}

/* A job that waits has a reason, if only that others are before it. */
static const char *reason_of(const entry *e)
{
    if (e->shown != JOB_QUEUED || e->reason[0] != '\0') {
        return e->reason;
    }
    return e->item.n_awaited > 0 ? "waits for jobs that it comes after" : "waits for slots";
}

void entry_status(const entry *e, Kd__JobStatus *status_out)
{
    kd__job_status__init(status_out);
    SET(status_out, id, e->job.id);
    SET(status_out, state, (Kd__JobState)e->shown);
    SET(status_out, attempts, e->job.attempts);
    SET(status_out, step, e->step);
    SET(status_out, steps, e->steps);
    status_out->name = e->name;
    status_out->output = e->output;
    status_out->reason = (char *)reason_of(e); /* only read */
    SET(status_out, submitted_at, e->submitted_at);
    if (e->started_at > 0.0) {
        SET(status_out, started_at, e->started_at);
    }
    if (e->finished_at > 0.0) {
        SET(status_out, finished_at, e->finished_at);
    }
    if (!isnan(e->test_loss)) {
        SET(status_out, test_loss, e->test_loss);
        SET(status_out, test_accuracy, e->test_accuracy);
    }
    put_last(e, status_out);
}

Kd__Job *entry_unpack(const entry *e)
{
    Kd__Job *spec = kd__job__unpack(NULL, e->spec_bytes, e->spec);
    if (spec == NULL) {
        (void)kd_fail(KD_ERR_PROTO, "job %" PRIu64 ": its stored text does not parse", e->job.id);
    }
    return spec;
}

kd_status entry_set_reason(entry *e, const char *text)
{
    char *copy = strdup(text == NULL ? "" : text);
    if (copy == NULL) {
        return no_memory(e->job.id);
    }
    free(e->reason);
    e->reason = copy;
    return KD_OK;
}

kd_status entry_set_last(entry *e, Kd__StepMetrics *last)
{
    if (e->last != NULL) {
        kd__step_metrics__free_unpacked(e->last, NULL);
    }
    e->last = last;
    const size_t n_bytes = kd__step_metrics__get_packed_size(last);
    uint8_t *packed = malloc(n_bytes + 1);
    if (packed == NULL) {
        return no_memory(e->job.id);
    }
    free(e->last_packed);
    e->last_packed = packed;
    e->last_packed_bytes = kd__step_metrics__pack(last, packed);
    return KD_OK;
}
