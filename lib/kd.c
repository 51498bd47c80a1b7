/* kd.c - how a student comes to be and goes, and how it is saved; lib/kd/ has what it does between. */
#include "kd.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/model_folder.h"
#include "kd/student.h"
#include "message/reflect.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/dtype.h"
#include "train/initial.h"

kd_status kd_given(const char *names, const void *const *arguments, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const size_t size = strcspn(names, ",");
        if (arguments[i] == NULL) {
            return kd_fail(KD_ERR_ARG, "%.*s: found NULL, expected a pointer to one", (int)size,
                           names);
        }
        names += size + strspn(names + size, ", ");
    }
    return KD_OK;
}

static kd_status make_trainer(kd_student *s, const Kd__Job *whole)
{
    const kd_trainer_settings settings = {.objective = whole->objective,
                                          .training = whole->training,
                                          .max_batch = s->micro_size,
                                          .n_tokens = s->n_tokens};
    const Kd__Student *student = whole->student;
    kd_model_config config;
    kd_parameters *params;
    kd_status st = kd_initial_config(whole, &config);
    if (!st && student->init == KD__STUDENT__INIT__CHECKPOINT) {
        st = kd_model_content("student.checkpoint", student->checkpoint, student->verify,
                              &s->start_content);
        if (!st) {
            st = kd_tokenizer_files_read(student->checkpoint, &s->tokenizer_files);
        }
    }
    if (!st) {
        st = kd_initial_parameters(s->be, student, &config, &params);
    }
    return st ? st : kd_trainer_create(params, &settings, NULL, 0, &s->trainer);
}

/* `whole` is completed for a student without a teacher; one that the job names comes last. */
static kd_status build(kd_student *s, const Kd__Job *whole)
{
    s->batch_size = whole->training->batch_size;
    s->micro_size = whole->training->micro_batch_size;
    s->n_tokens = whole->data->sequence_length;
    s->distils = true;
    const kd_device_place place = {.device = kd_values_device(whole->student->resources),
                                   .n_threads = (int)whole->student->resources->threads};
    kd_status st = kd_device_open(&place, kd_dtype_of_word(whole->training->dtype), &s->be);
    if (!st) {
        st = make_trainer(s, whole);
    }
    return st ? st : kd_teaching_load(s, s->job);
}

kd_status kd_student_create(const char *yaml, kd_student **student_out)
{
    Kd__Job *whole = NULL;
    kd_status st = KD_GIVEN(yaml, student_out);
    if (st) {
        return st;
    }
    kd_student *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for a student");
    }
    st = kd_values_read(yaml, &s->job);
    if (!st) {
        st = kd_values_complete(s->job, false, &whole);
    }
    if (!st) {
        st = build(s, whole);
    }
    kd_message_destroy((ProtobufCMessage *)whole);
    if (st) {
        kd_student_destroy(s);
        return st;
    }
    *student_out = s;
    return KD_OK;
}

void kd_student_destroy(kd_student *s)
{
    if (s != NULL) {
        kd_channel_destroy(s->channel);
        kd_trainer_destroy(s->trainer);
        kd_teacher_destroy(s->teacher);
        kd_backend_destroy(s->teacher_be);
        kd_backend_destroy(s->be);
        kd_message_destroy((ProtobufCMessage *)s->job);
        kd_tokenizer_files_release(&s->tokenizer_files);
        free(s);
    }
}

static kd_status add_files(void *student, const char *folder)
{
    const kd_student *s = student;
    return kd_tokenizer_files_write(&s->tokenizer_files, folder);
}

kd_status kd_student_save(kd_student *student, const char *folder)
{
    const kd_status st = KD_GIVEN(student, folder);
    return st ? st
              : kd_model_export(folder, kd_trainer_parameters(student->trainer), add_files,
                                student);
}

uint64_t kd_student_steps(const kd_student *s)
{
    return s != NULL ? s->n_steps : 0;
}

const char *kd_error_text(void)
{
    return kd_fault_text();
}

void kd_set_quiet(bool quiet)
{
    (void)kd_fault_quiet(quiet);
}

const char *kd_version(void)
{
    return KD_VERSION;
}
