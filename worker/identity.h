/* identity.h - what a checkpoint of this run depends on: the job, its tokens and its models. */
#ifndef KD_WORKER_IDENTITY_H
#define KD_WORKER_IDENTITY_H

#include "base/text.h"
#include "proto/job.pb-c.h"
#include "worker/batches.h"

/*
 * The canonical text (job/hash.h) of a completed job with what stands where it names text and models, so that another
 * model at the same path is another job, and the same one elsewhere is not. Blocks on the disk;
 * faults are those of format/identity.h.
 */
KD_MUST_USE kd_status identity_write(const Kd__Job *job, const batches *b, kd_text *identity_out);

/* KD_ERR_INVALID: the checkpoint was made by a job of another identity; names the field that differs. */
KD_MUST_USE kd_status identity_check(const char *identity, const char *made_by, const char *path);

#endif
