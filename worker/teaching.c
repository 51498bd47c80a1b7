/* teaching.c - the shapes of a job's models, and the signals that follow from them. */
#include "worker/teaching.h"

#include <stdlib.h>

#include "base/log.h"
#include "format/model_folder.h"
#include "train/dtype.h"
#include "train/initial.h"

static kd_status resolve_transport(Kd__Job *job, int i)
{
    Kd__Teacher *teacher = job->teachers[i];
    kd_model_config config;
    if (teacher->transport != KD__TEACHER__TRANSPORT__AUTO) {
        return KD_OK;
    }
    const kd_status st = kd_model_folder_config(teacher->checkpoint, &config);
    if (!st) {
        teacher->has_transport = 1;
        teacher->transport = kd_transport_resolve(teacher->transport, &config,
                                                  kd_dtype_of_word(job->teachers[i]->dtype));
    }
    return st;
}

kd_status teaching_resolve_transports(Kd__Job *job)
{
    kd_status st = KD_OK;
    for (int i = 0; !st && i < (int)job->n_teachers; i++) {
        st = resolve_transport(job, i);
    }
    return st;
}

static kd_status read_shapes(const Kd__Job *job, teaching *t)
{
    kd_status st = kd_initial_config(job, &t->student);
    for (int i = 0; !st && i < t->n_teachers; i++) {
        st = kd_model_folder_config(job->teachers[i]->checkpoint, &t->configs[i]);
        t->teachers[i] = (kd_teacher_view){.config = &t->configs[i],
                                           .transport = job->teachers[i]->transport,
                                           .compute = kd_dtype_of_word(job->teachers[i]->dtype),
                                           .lm_head = kd_tensor_none()};
    }
    return st;
}

void teaching_release(teaching *t)
{
    kd_signal_plan_release(&t->plan);
    free(t->teachers);
    free(t->configs);
    *t = (teaching){0};
}

int64_t teaching_rows(const Kd__Job *job)
{
    return (int64_t)job->training->micro_batch_size * job->data->sequence_length;
}

kd_status teaching_of_job(const Kd__Job *job, teaching *teaching_out)
{
    teaching t = {.n_teachers = (int)job->n_teachers};
    t.configs = calloc(job->n_teachers + 1, sizeof *t.configs);
    t.teachers = calloc(job->n_teachers + 1, sizeof *t.teachers);
    kd_status st = t.configs == NULL || t.teachers == NULL
                       ? kd_fail(KD_ERR_NOMEM, "no memory for %d teachers", t.n_teachers)
                       : read_shapes(job, &t);
    if (!st) {
        st = kd_objective_plan(job->objective, &t.student, t.teachers, t.n_teachers,
                               teaching_rows(job), &t.plan);
    }
    if (st) {
        teaching_release(&t);
        return st;
    }
    *teaching_out = t;
    return KD_OK;
}

bool teaching_is_local(const Kd__Job *job, int teacher)
{
    return job->teachers[teacher]->resources->ranks == 0;
}

bool teaching_needs_lm_head(const Kd__Job *job, const teaching *t, int teacher)
{
    const bool beside =
        teaching_is_local(job, teacher) &&
        job->teachers[teacher]->resources->device == job->student->resources->device;
    return !beside && kd_signal_plan_find(&t->plan, teacher, KD_SIGNAL_HIDDEN, 0) != NULL;
}
