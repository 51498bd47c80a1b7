/*
 * values.c - a student's fields are those of a job file: one message, in which lib/job completes what
 * was left out, and lib/message finds paths and ranges. What the caller gave is kept as it was given,
 * since some defaults depend on whether there is a teacher.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "job/job.h"
#include "kd/student.h"
#include "message/fields.h"
#include "message/path.h"
#include "message/reflect.h"
#include "tensor/ops.h"
#include "train/device.h"
#include "train/dtype.h"

/* Relative paths are below the folder that the process is in. */
static kd_status resolve_paths(Kd__Job *job)
{
    char *here = getcwd(NULL, 0);
    if (here == NULL) {
        return kd_fail(kd_status_of_errno(errno),
                       "found no working directory, expected one that is there");
    }
    const kd_status st = kd_job_resolve_paths(job, here);
    free(here);
    return st;
}

Kd__Resources__Device kd_values_wish(const Kd__Resources *resources)
{
    return resources != NULL ? resources->device : KD__RESOURCES__DEVICE__AUTO;
}

Kd__Resources__Device kd_values_device(const Kd__Resources *resources)
{
    return kd_device_choose(kd_values_wish(resources), 1, kd_cuda_device_count() > 0 ? 1 : 0);
}

/* All CUDA devices that we run on multiply bf16. */
static void choose_dtype(const Kd__Resources *resources, protobuf_c_boolean *has, Kd__Dtype *dtype)
{
    const bool cuda = kd_values_device(resources) == KD__RESOURCES__DEVICE__CUDA;
    *dtype = kd_dtype_choose(*dtype, 1, cuda || kd_cpu_multiplies_bf16() ? 1 : 0);
    *has = 1;
}

/* One process is all there is, and it is here. */
static kd_status adapt(Kd__Job *job)
{
    if (job->objective == NULL) { /* so that its defaults can be chosen */
        job->objective = (Kd__Objective *)kd_message_create(&kd__objective__descriptor);
    }
    if (job->objective == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for an objective");
    }
    Kd__Resources *mine = job->student != NULL ? job->student->resources : NULL;
    if (mine != NULL) {
        mine->has_ranks = 0;
    }
    for (size_t i = 0; i < job->n_teachers; i++) {
        if (job->teachers[i]->resources != NULL) {
            job->teachers[i]->resources->has_ranks = 0;
        }
        choose_dtype(mine, &job->teachers[i]->has_dtype, &job->teachers[i]->dtype);
    }
    if (job->training != NULL) {
        choose_dtype(mine, &job->training->has_dtype, &job->training->dtype);
    }
    return resolve_paths(job);
}

static kd_status check(const Kd__Job *job)
{
    Kd__Job *whole = NULL;
    kd_status st = kd_values_complete(job, job->n_teachers > 0, &whole);
    if (!st) {
        st = kd_job_check_model(whole, NULL);
        kd_message_destroy(&whole->base);
    }
    return st;
}

kd_status kd_values_read(const char *yaml, Kd__Job **job_out)
{
    Kd__Job *job = NULL;
    kd_status st = kd_job_parse(yaml, strlen(yaml), "job", NULL, 0, &job);
    if (st) {
        return st;
    }
    st = adapt(job);
    if (!st) {
        st = check(job);
    }
    if (st) {
        kd_message_destroy(&job->base);
        return st;
    }
    *job_out = job;
    return KD_OK;
}

static kd_status copy_of(const Kd__Job *job, Kd__Job **copy_out)
{
    Kd__Job *copy = (Kd__Job *)kd_message_copy(&job->base);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a student's values");
    }
    *copy_out = copy;
    return KD_OK;
}

kd_status kd_values_complete(const Kd__Job *job, bool taught, Kd__Job **whole_out)
{
    Kd__Job *whole = NULL;
    kd_status st = copy_of(job, &whole);
    if (st) {
        return st;
    }
    st = kd_job_complete_objective(whole->objective, taught);
    if (!st) {
        st = kd_job_complete(whole);
    }
    if (st) {
        kd_message_destroy(&whole->base);
        return st;
    }
    *whole_out = whole;
    return KD_OK;
}

/* The job's first teacher, which is made if there is none. */
static Kd__Teacher *teacher_of(Kd__Job *job)
{
    const ProtobufCFieldDescriptor *field = kd_message_field(job->base.descriptor, "teachers");
    if (job->n_teachers == 0) {
        ProtobufCMessage *teacher = kd_message_create(&kd__teacher__descriptor);
        if (teacher == NULL || kd_message_add_element(&job->base, field, &teacher) == NULL) {
            kd_message_destroy(teacher);
            return NULL;
        }
    }
    return job->teachers[0];
}

static kd_status name_teacher(Kd__Job *job, const char *folder)
{
    char *name = strdup(folder);
    Kd__Teacher *teacher = teacher_of(job);
    if (name == NULL || teacher == NULL) {
        free(name);
        return kd_fail(KD_ERR_NOMEM, "no memory for a teacher");
    }
    free(teacher->checkpoint);
    teacher->checkpoint = name;
    return adapt(job);
}

kd_status kd_values_with_teacher(const Kd__Job *job, const char *folder, Kd__Job **job_out)
{
    Kd__Job *copy = NULL;
    kd_status st = copy_of(job, &copy);
    if (st) {
        return st;
    }
    if (folder == NULL) {
        kd_message_clear(&copy->base, kd_message_field(copy->base.descriptor, "teachers"));
    } else {
        st = name_teacher(copy, folder);
    }
    if (st) {
        kd_message_destroy(&copy->base);
        return st;
    }
    *job_out = copy;
    return KD_OK;
}

/* There is such a field, and it may change. */
static kd_status check_live(const char *path)
{
    kd_path_place place;
    const kd_status st = kd_path_find(&kd__job__descriptor, path, &place);
    if (!st && (place.flags & KD_FIELD_LIVE) == 0) {
        return kd_fail(KD_ERR_STATE, "%s: does not change once there is a student", path);
    }
    return st;
}

kd_status kd_student_set(kd_student *student, const char *path, const char *value)
{
    kd_student *s = student;
    Kd__Job *job = NULL;
    kd_status st = KD_GIVEN(student, path, value);
    if (!st) {
        st = check_live(path);
    }
    if (!st) {
        st = copy_of(s->job, &job);
    }
    if (st) {
        return st;
    }
    st = kd_path_set(&job->base, path, value, NULL);
    if (!st) {
        st = check(job);
    }
    if (st) {
        kd_message_destroy(&job->base);
        return st;
    }
    kd_message_destroy(&s->job->base);
    s->job = job;
    return KD_OK;
}

static kd_status write_out(const char *path, const kd_text *text, char *out, size_t size)
{
    const char *value = text->data != NULL ? text->data : "";
    const size_t n = strlen(value) + 1;
    if (n > size) {
        return kd_fail(KD_ERR_ARG, "%s: found room for %zu bytes, expected %zu", path, size, n);
    }
    memcpy(out, value, n);
    return KD_OK;
}

kd_status kd_student_get(const kd_student *student, const char *path, char *out, size_t size)
{
    Kd__Job *whole = NULL;
    kd_text text = {0};
    kd_status st = KD_GIVEN(student, path, out);
    if (!st) {
        st = kd_values_complete(student->job, kd_student_distils(student), &whole);
    }
    if (st) {
        return st;
    }
    st = kd_path_get(&whole->base, path, &text);
    if (!st) {
        st = write_out(path, &text, out, size);
    }
    kd_text_release(&text);
    kd_message_destroy(&whole->base);
    return st;
}
