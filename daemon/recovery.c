/*
 * recovery.c - what the daemon does at its start: reads every job, and takes up those whose attempt
 * was under way when the last daemon ended. Blocks on the disk and on /proc; nobody is connected yet.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "daemon/coordinator.h"
#include "daemon/run.h"
#include "job/job.h"

/* Only reads: the store answers requests when it is loaded. */
static kd_status visit(void *context, const store_job *row)
{
    coordinator *co = context;
    entry *e;
    const kd_status st = jobs_add(&co->jobs, row, &e);
    if (st == KD_OK) {
        e->durable = true;
        e->item.retired = job_state_is_final(e->job.state);
    }
    return st;
}

/* Kept in memory only: the next daemon may have slots enough. */
static kd_status say_if_too_large(const coordinator *co, entry *e)
{
    char reason[128];
    if (e->job.state != JOB_QUEUED || e->item.slots <= co->scheduler.n_slots) {
        return KD_OK;
    }
    (void)snprintf(reason, sizeof reason,
                   "waits for a daemon with %" PRIu64 " slots; this one has %" PRIu64,
                   e->item.slots, co->scheduler.n_slots);
    return entry_set_reason(e, reason);
}

static kd_status take_up(coordinator *co, entry *e)
{
    Kd__Job *spec = entry_unpack(e);
    kd_status st = spec == NULL ? KD_ERR_PROTO : kd_job_complete(spec);
    if (st == KD_OK) {
        scheduler_item_init(&e->item, e->job.id, kd_job_slots(spec));
        if (e->job.state == JOB_QUEUED) {
            coordinator_accept(co, e, spec);
        } else {
            st = run_adopt(co, e, spec);
        }
    }
    kd__job__free_unpacked(spec, NULL);
    return st ? st : say_if_too_large(co, e);
}

/* By ascending id, so what a job comes after is taken up before it. */
kd_status coordinator_load(coordinator *co)
{
    kd_status st = store_load(co->store, visit, co, &co->last_seq);
    for (size_t i = 0; st == KD_OK && i < co->jobs.n; i++) {
        entry *e = co->jobs.by_id[i];
        if (e != NULL && !e->item.retired) {
            st = take_up(co, e);
        }
    }
    return st;
}
