/*
 * checkpoint.c - a student's training state on disk, with the job that it is of: what a resume would not
 * go on from in the same way is refused by its field, before anything of the student changes.
 */
#include "train/checkpoint.h"

#include <stdlib.h>

#include "base/log.h"
#include "kd/student.h"
#include "message/reflect.h"

/* The job's canonical text; the caller releases it. */
static kd_status write_identity(const kd_student *s, kd_text *identity_out)
{
    kd_job_content contents[2];
    size_t n = 0;
    Kd__Job *whole = NULL;
    kd_text identity = {0};
    kd_status st = kd_values_complete(s->job, s->job->n_teachers > 0, &whole);
    if (st) {
        return st;
    }
    if (whole->student->init == KD__STUDENT__INIT__CHECKPOINT) {
        contents[n++] = s->start_content;
    }
    if (s->teacher != NULL) {
        contents[n++] = s->teacher_content;
    }
    st = kd_job_canonical(whole, contents, n, &identity);
    kd_message_destroy(&whole->base);
    if (st) {
        kd_text_release(&identity);
        return st;
    }
    *identity_out = identity;
    return KD_OK;
}

kd_status kd_student_checkpoint(kd_student *student, const char *folder)
{
    const kd_student *s = student;
    kd_text identity = {0};
    kd_status st = KD_GIVEN(student, folder);
    if (!st) {
        st = write_identity(s, &identity);
    }
    if (st) {
        return st;
    }
    const kd_checkpoint_state state = {
        .step = s->n_steps, .job_hash = kd_job_canonical_hash(identity.data), .job = identity.data};
    st = kd_checkpoint_save(folder, kd_trainer_optimizer(s->trainer), &state, NULL);
    kd_text_release(&identity);
    return st;
}

static kd_status check_identity(const char *identity, const char *made_by, const char *path)
{
    kd_text difference = {0};
    kd_status st = KD_OK;
    if (made_by != NULL && kd_job_canonical_differs(identity, made_by, &difference)) {
        st = kd_fail(KD_ERR_INVALID, "checkpoint %s was made by another job: %s", path,
                     difference.failed ? "no memory for what differs" : difference.data);
    }
    kd_text_release(&difference);
    return st;
}

/* From a checkpoint that says it was made by the job `made_by`. */
static kd_status load(kd_student *s, const char *path, const char *made_by)
{
    kd_text identity = {0};
    kd_checkpoint_state state = {0};
    kd_status st = write_identity(s, &identity);
    if (!st) {
        st = check_identity(identity.data, made_by, path);
    }
    if (!st) {
        st = kd_checkpoint_load(path, kd_trainer_optimizer(s->trainer),
                                kd_job_canonical_hash(identity.data), &state);
    }
    kd_text_release(&identity);
    if (st) {
        return st;
    }
    s->n_steps = state.step;
    kd_checkpoint_state_release(&state);
    return KD_OK;
}

kd_status kd_student_resume(kd_student *student, const char *folder)
{
    kd_checkpoint_state state = {0};
    char *path;
    kd_status st = KD_GIVEN(student, folder);
    if (!st) {
        st = kd_checkpoint_find_latest(folder, &path, &state);
    }
    if (st) {
        return st;
    }
    st = path != NULL ? load(student, path, state.job)
                      : kd_fail(KD_ERR_NOT_FOUND, "%s holds no checkpoint to go on from", folder);
    kd_checkpoint_state_release(&state);
    free(path);
    return st;
}
