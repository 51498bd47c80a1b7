/*
 * initial.c - where a student comes from, for worker and libkd alike: a checkpoint's shape and weights, or
 * the job's shape and its seed.
 */
#include "train/initial.h"

#include "format/model_folder.h"
#include "shape/from_message.h"

kd_status kd_initial_config(const Kd__Job *job, kd_model_config *config_out)
{
    if (job->student->init == KD__STUDENT__INIT__CHECKPOINT) {
        return kd_model_folder_config(job->student->checkpoint, config_out);
    }
    kd_model_config config;
    kd_status st =
        kd_model_config_from_message(job->student->model, job->data->sequence_length, &config);
    if (!st) {
        st = kd_model_config_check(&config);
    }
    if (!st) {
        *config_out = config;
    }
    return st;
}

kd_status kd_initial_parameters(kd_backend *be,
                                const Kd__Student *student,
                                const kd_model_config *config,
                                kd_parameters **params_out)
{
    kd_parameters *params = NULL;
    kd_status st = kd_parameters_create(be, config, KD_PARAMS_TRAIN, &params);
    if (st) {
        return st;
    }
    if (student->init == KD__STUDENT__INIT__CHECKPOINT) {
        st = kd_model_folder_load(student->checkpoint, params);
    } else {
        st = kd_parameters_init(params, student->seed);
    }
    if (st) {
        kd_parameters_destroy(params);
        return st;
    }
    *params_out = params;
    return KD_OK;
}
