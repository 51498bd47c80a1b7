/*
 * check_models.c - what the shapes of a job's models tell before anything runs. Weights are for the
 * ranks to judge: they read them anyway.
 */
#include "job/check_models.h"

#include <stdbool.h>
#include <stdio.h>

#include "base/log.h"
#include "shape/from_message.h"
#include "shape/hf_config_cache.h"
#include "shape/vocabulary.h"

enum { BYTE_TOKENS = 256 }; /* of the one tokenizer there is */

/* The fault that is told, with the field it is about in front. The job's, unless it is the host's. */
static kd_status blame(kd_status st, const char *field, const char *path)
{
    return kd_fail(kd_status_is_of_host(st) ? st : KD_ERR_INVALID, "%s: %s%s%s", field,
                   path != NULL ? path : "", path != NULL ? ": " : "", kd_fault_text());
}

static kd_status check_tokens(const Kd__Job *job, const char *field, const kd_model_config *c)
{
    if (c->vocab_size < BYTE_TOKENS) {
        return kd_fail(
            KD_ERR_INVALID,
            "%s: found a vocabulary of %lld tokens, expected at least %d: each byte is one", field,
            (long long)c->vocab_size, BYTE_TOKENS);
    }
    if (c->max_positions > 0 && job->data->sequence_length > c->max_positions) {
        return kd_fail(KD_ERR_INVALID,
                       "data.sequence_length: found %u, expected at most %lld, the positions "
                       "(max_position_embeddings) of %s",
                       job->data->sequence_length, (long long)c->max_positions, field);
    }
    return KD_OK;
}

/* The shape in a folder, held against the job's data. */
static kd_status
read_model(const Kd__Job *job, const char *field, const char *folder, kd_model_config *config_out)
{
    const kd_status st = kd_hf_config_read_cached(folder, config_out);
    return st ? blame(st, field, NULL) : check_tokens(job, field, config_out);
}

/* *known_out: false while the student's checkpoint is yet to be made. */
static kd_status student_shape(const Kd__Job *job, kd_model_config *config_out, bool *known_out)
{
    const Kd__Student *student = job->student;
    *known_out = true;
    if (student->checkpoint != NULL) {
        return read_model(job, "student.checkpoint", student->checkpoint, config_out);
    }
    if (student->model != NULL) {
        return kd_model_config_from_message(student->model, job->data->sequence_length, config_out);
    }
    *known_out = false;
    return KD_OK;
}

kd_status kd_job_check_models(const Kd__Job *job)
{
    kd_model_config student, teacher;
    int64_t n_common;
    bool has_student;
    kd_status st = student_shape(job, &student, &has_student);
    for (size_t i = 0; i < job->n_teachers && !st; i++) {
        char field[48];
        (void)snprintf(field, sizeof field, "teachers.%zu.checkpoint", i);
        st = read_model(job, field, job->teachers[i]->checkpoint, &teacher);
        if (!st && has_student && kd_vocab_common(&student, &teacher, &n_common)) {
            st = blame(KD_ERR_INVALID, field, job->teachers[i]->checkpoint);
        }
    }
    return st;
}
