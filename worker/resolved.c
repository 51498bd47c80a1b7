/*
 * A field that was left to be decided is absent, or "auto": so a job that names what was decided is the
 * same job, and an output's own job.yaml resumes it.
 */
#include "worker/resolved.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/check.h"
#include "message/path.h"
#include "tensor/ops.h"
#include "worker/auto.h"
#include "worker/level.h"
#include "worker/teaching.h"

#define OTHERWISE "; name another output folder, or submit the job as it was"

typedef struct field_path {
    char text[48];
} field_path;

static const char *const of_job[] = {"training.dtype", "training.micro_batch_size"};
static const char *const of_teacher[] = {"dtype", "transport"};

enum {
    N_OF_JOB = sizeof of_job / sizeof *of_job,
    N_OF_TEACHER = sizeof of_teacher / sizeof *of_teacher
};

static size_t n_fields(const Kd__Job *job)
{
    return N_OF_JOB + job->n_teachers * N_OF_TEACHER;
}

static field_path path_of(size_t i)
{
    field_path path;
    if (i < N_OF_JOB) {
        (void)snprintf(path.text, sizeof path.text, "%s", of_job[i]);
    } else {
        (void)snprintf(path.text, sizeof path.text, "teachers.%zu.%s",
                       (i - N_OF_JOB) / N_OF_TEACHER, of_teacher[(i - N_OF_JOB) % N_OF_TEACHER]);
    }
    return path;
}

kd_status resolved_forget(Kd__Job *job)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < n_fields(job) && !st; i++) {
        st = kd_path_set(&job->base, path_of(i).text, "", NULL);
    }
    return st;
}

kd_status resolved_write(const Kd__Job *job, kd_text *lines)
{
    kd_status st = KD_OK;
    for (size_t i = 0; i < n_fields(job) && !st; i++) {
        const field_path path = path_of(i);
        kd_text_printf(lines, "%s=", path.text);
        st = kd_path_get(&job->base, path.text, lines);
        kd_text_add(lines, "\n");
    }
    return !st && lines->failed ? kd_fail(KD_ERR_NOMEM, "no memory for what was decided") : st;
}

/* One line, which is cut at its sign. */
static kd_status take_line(Kd__Job *job, char *line)
{
    char *value = strchr(line, '=');
    kd_text mine = {0};
    if (value == NULL) {
        return kd_fail(KD_ERR_INVALID, "the checkpoint: found \"%s\", expected PATH=VALUE", line);
    }
    *value++ = '\0';
    kd_status st = kd_path_get(&job->base, line, &mine);
    const char *found = mine.data != NULL ? mine.data : "";
    if (!st && (!kd_path_is_set(&job->base, line) || strcmp(found, "auto") == 0)) {
        st = kd_path_set(&job->base, line, value, "the checkpoint");
    } else if (!st && strcmp(found, value) != 0) {
        st = kd_fail(KD_ERR_INVALID, "%s: found %s, the checkpoint was made with %s" OTHERWISE,
                     line, found, value);
    }
    kd_text_release(&mine);
    return st;
}

/* The job's own values were checked before; what is out of range now came from the checkpoint. */
static kd_status check_ranges(const Kd__Job *job)
{
    kd_checker checker = {0};
    const int quiet = kd_fault_quiet(1);
    kd_checker_message(&checker, &job->base);
    const kd_status st = kd_checker_end(&checker, NULL);
    (void)kd_fault_quiet(quiet);
    return st ? kd_fail(st, "the checkpoint: %s", kd_fault_text()) : KD_OK;
}

/* Other ranks than those it was made on may not be able to cut batches as it did. */
static kd_status check_cut(const Kd__Job *job)
{
    const Kd__Training *t = job->training;
    const uint32_t n_ranks = job->student->resources->ranks;
    if (t->batch_size % ((uint64_t)n_ranks * t->micro_batch_size) == 0) {
        return KD_OK;
    }
    return kd_fail(
        KD_ERR_INVALID,
        "student.resources.ranks: found %u, but the checkpoint was made with micro-batches "
        "of %u, of which a batch of %u has %u: expected a divisor of that",
        n_ranks, t->micro_batch_size, t->batch_size, t->batch_size / t->micro_batch_size);
}

kd_status resolved_take(Kd__Job *job, const char *made_with)
{
    char *lines = strdup(made_with), *rest = lines, *line;
    kd_status st = lines == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for what was decided") : KD_OK;
    while (!st && (line = strsep(&rest, "\n")) != NULL) {
        st = *line != '\0' && !level_owns(line) ? take_line(job, line) : KD_OK;
    }
    free(lines);
    if (!st) {
        st = check_ranges(job);
    }
    return st ? st : check_cut(job);
}

static bool wants_unseen(const worker *w, const Kd__Resources *resources)
{
    return resources->device == KD__RESOURCES__DEVICE__CUDA &&
           kd_device_count(w->devices.avoided) == 0;
}

/* A host without one fails the job; one whose devices have failed is to blame itself. */
static kd_status refuse_device(const worker *w, const char *path)
{
    if (kd_cuda_device_count() == 0) {
        return kd_fail(KD_ERR_NOT_FOUND,
                       "%s.resources.device: found cuda, expected cpu or auto: this host has no "
                       "CUDA device, or this program was built without CUDA",
                       path);
    }
    const kd_status st =
        kd_fail(KD_ERR_STATE,
                "%s.resources.device: found cuda, but no CUDA device of this host is left: those "
                "that failed are avoided until distilld starts again",
                path);
    devices_tell_none_left(w->link, kd_fault_text());
    return st;
}

/* Of this rank's roles, once no device is auto. */
static kd_status check_device(const worker *w)
{
    const bool student = kd_world_role(w->world) == KD_ROLE_STUDENT;
    char path[32] = "student";
    bool unseen = student && wants_unseen(w, w->job->student->resources);
    for (int i = 0; !unseen && i < (int)w->job->n_teachers; i++) {
        const bool mine = student ? teaching_is_local(w->job, i) : kd_world_teacher(w->world) == i;
        unseen = mine && wants_unseen(w, w->job->teachers[i]->resources);
        (void)snprintf(path, sizeof path, "teachers.%d", i);
    }
    return unseen ? refuse_device(w, path) : KD_OK;
}

/* The same on every rank. */
static kd_status count_ranks(worker *w, role_count *counts)
{
    const int role =
        kd_world_role(w->world) == KD_ROLE_STUDENT ? 0 : 1 + kd_world_teacher(w->world);
    counts[role] = role_count_here(w->devices.avoided);
    return kd_world_sum(w->world, &counts[0].n_ranks, ROLE_COUNTS * (1 + (int)w->job->n_teachers));
}

kd_status resolved_settle_devices(worker *w)
{
    role_count *counts = calloc(1 + w->job->n_teachers, sizeof *counts);
    kd_status st = kd_world_agree(
        w->world, counts == NULL
                      ? kd_fail(KD_ERR_NOMEM, "no memory for %zu teachers", w->job->n_teachers)
                      : KD_OK);
    if (!st) {
        KD_CHECK(counts != NULL); /* or the ranks had not agreed */
        st = count_ranks(w, counts);
    }
    if (!st) {
        auto_resolve(w->job, counts);
    }
    free(counts);
    return st ? st : kd_world_agree(w->world, check_device(w));
}

static kd_status decide(worker *w)
{
    kd_status st = teaching_resolve_transports(w->job);
    w->job->training->has_micro_batch_size = 1;
    w->batches.n_batch = w->job->training->micro_batch_size;
    if (!st) {
        st = resolved_write(w->job, &w->resolved);
    }
    level_write(w, &w->resolved);
    return st;
}

kd_status resolved_settle(worker *w, const char *made_with)
{
    char *lines = NULL;
    kd_status st = kd_world_share_text(w->world, made_with, &lines);
    if (!st && *lines != '\0') {
        st = resolved_take(w->job, lines);
    }
    st = kd_world_agree(w->world, st);
    if (!st) {
        st = resolved_settle_devices(w);
    }
    if (!st) {
        st = level_settle(w, lines);
    }
    free(lines);
    return st ? st : kd_world_agree(w->world, decide(w));
}
