/*
 * preparation.c - apart from the attempt, because it is the one part of a launch that waits for disks: whatever
 * comes meanwhile (a cancel, the daemon's end) finds the attempt free to hear of it.
 */
#include "daemon/preparation.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/text.h"
#include "daemon/state_folder.h"
#include "job/job.h"
#include "message/yaml.h"
#include "proto/worker.pb-c.h"

struct preparation {
    uv_work_t work;
    launch launch;
    Kd__Job *spec;
    kd_text yaml;
    uint8_t *attempt;
    char folder[PATH_MAX], job_file[PATH_MAX], attempt_file[PATH_MAX], log_file[PATH_MAX];
    kd_status status;
    char fault[ATTEMPT_TEXT_BYTES];
    preparation_done done;
    void *context;
};

void preparation_destroy(preparation *p)
{
    if (p != NULL) {
        kd__job__free_unpacked(p->spec, NULL);
        kd_text_release(&p->yaml);
        free(p->attempt);
        free(p);
    }
}

static void name_files(preparation *p, const char *state, uint64_t id, uint32_t number)
{
    char name[64];
    state_job_path(state, id, "", p->folder);
    state_job_path(state, id, "/job.yaml", p->job_file);
    (void)snprintf(name, sizeof name, "/attempt-%u", number);
    state_job_path(state, id, name, p->attempt_file);
    state_log_path(state, id, number, p->log_file);
}

static bool pack_attempt(preparation *p, const attempt *a, const preparation_place *place)
{
    Kd__Attempt file = KD__ATTEMPT__INIT;
    Kd__AvoidedDevice avoid[DEVICES_AVOIDED_MAX], *list[DEVICES_AVOIDED_MAX];
    for (size_t i = 0; i < place->devices->n_avoided; i++) {
        const avoided_device *device = &place->devices->avoided[i];
        kd__avoided_device__init(&avoid[i]);
        avoid[i].identity = (char *)device->identity; /* both only read */
        avoid[i].name = (char *)device->name;
        list[i] = &avoid[i];
    }
    file.avoid = list;
    file.n_avoid = place->devices->n_avoided;
    file.has_job_id = file.has_number = file.has_secret = 1;
    file.job_id = a->job_id;
    file.number = a->number;
    file.secret.data = (uint8_t *)a->secret; /* only read */
    file.secret.len = sizeof a->secret;
    file.address = (char *)place->address; /* only read */
    p->attempt = malloc(kd__attempt__get_packed_size(&file));
    p->launch.attempt_bytes = p->attempt == NULL ? 0 : kd__attempt__pack(&file, p->attempt);
    return p->attempt != NULL;
}

static bool fill(preparation *p, const entry *e, const attempt *a, const preparation_place *place)
{
    p->spec = entry_unpack(e);
    if (p->spec == NULL || kd_job_complete(p->spec) || !pack_attempt(p, a, place)) {
        return false;
    }
    kd_yaml_print(&p->yaml, &p->spec->base);
    name_files(p, place->folder, a->job_id, a->number);
    p->launch.worker = place->worker;
    p->launch.folder = p->folder;
    p->launch.job_file = p->job_file;
    p->launch.attempt_file = p->attempt_file;
    p->launch.log_file = p->log_file;
    p->launch.mark = place->mark;
    p->launch.n_ranks = a->n_ranks;
    p->launch.job_yaml = p->yaml.data;
    p->launch.attempt = p->attempt;
    return !p->yaml.failed;
}

preparation *preparation_create(const entry *e, const attempt *a, const preparation_place *place)
{
    preparation *p = calloc(1, sizeof *p);
    if (p == NULL || !fill(p, e, a, place)) {
        preparation_destroy(p);
        return NULL;
    }
    return p;
}

/* On a pool thread. Files are looked at again: a job before this one may have made them, or not. */
static void prepare(uv_work_t *work)
{
    preparation *p = work->data;
    kd_fault_quiet(1);
    p->status = kd_job_check_files(p->spec);
    if (p->status == KD_OK) {
        p->status = launch_prepare(&p->launch);
    }
    if (p->status) {
        (void)snprintf(p->fault, sizeof p->fault, "%s", kd_fault_text());
    }
    kd_fault_quiet(0);
}

static void on_prepared(uv_work_t *work, int status)
{
    preparation *p = work->data;
    if (status != 0) {
        p->done(p->context, KD_ERR_IO, "the launch was interrupted");
    } else {
        p->done(p->context, p->status, p->fault);
    }
}

kd_status preparation_start(preparation *p, uv_loop_t *loop, preparation_done done, void *context)
{
    p->work.data = p;
    p->done = done;
    p->context = context;
    return uv_queue_work(loop, &p->work, prepare, on_prepared) == 0
               ? KD_OK
               : kd_fail(KD_ERR_IO, "%s: no thread to write it", p->job_file);
}

const launch *preparation_launch(const preparation *p)
{
    return &p->launch;
}
