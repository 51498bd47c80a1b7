/*
 * initial.h - the model that a job's student starts as: a checkpoint's, or a random one of a shape.
 *
 * Threads: that of the back end. Blocks on the disk where there is a checkpoint.
 */
#ifndef KD_TRAIN_INITIAL_H
#define KD_TRAIN_INITIAL_H

#include "model/parameters.h"
#include "proto/job.pb-c.h"

/* Of a completed and checked job. Reads config.json of a checkpoint, and no weights. */
KD_MUST_USE kd_status kd_initial_config(const Kd__Job *job, kd_model_config *config_out);

/* Its weights, for training; `config` is that of kd_initial_config(). The caller destroys them. */
KD_MUST_USE kd_status kd_initial_parameters(kd_backend *be,
                                            const Kd__Student *student,
                                            const kd_model_config *config,
                                            kd_parameters **params_out);

#endif
