/* check_models.h - whether a job's models fit it and each other. Private to lib/job. */
#ifndef KD_JOB_CHECK_MODELS_H
#define KD_JOB_CHECK_MODELS_H

#include "base/status.h"
#include "proto/job.pb-c.h"

/*
 * Reads config.json of each checkpoint, and refuses what would fail once the ranks are there: shapes
 * that the decoder does not have, vocabularies that do not fit the tokenizer or each other,
 * sequences longer than a model's positions. KD_ERR_INVALID: "FIELD: FILE: ...". A student without
 * model and checkpoint, whose folder is not there yet, is left out. Blocks on the disk.
 */
KD_MUST_USE kd_status kd_job_check_models(const Kd__Job *job);

#endif
