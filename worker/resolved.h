/*
 * resolved.h - what a job may leave to be decided: dtypes, transports, the micro-batch size, all fields of
 * its own, and the level of its kernels (level.h), which is none.
 *
 * This is decided once, when the job first starts, and kept by its checkpoints as lines PATH=VALUE. At
 * a resume these win over what this machine and these ranks would come to; a job that names another
 * value than it began with is refused. The job then has the words that hold, and so has the job.yaml
 * that is written.
 */
#ifndef KD_WORKER_RESOLVED_H
#define KD_WORKER_RESOLVED_H

#include "base/text.h"
#include "worker/worker.h"

/* All ranks, once roles, batches and identity are known; made_with: the leader's checkpoint's, or NULL. */
KD_MUST_USE kd_status resolved_settle(worker *w, const char *made_with);

/* A part of it, also of all ranks: their devices and dtypes. What one of them fails with, all do. */
KD_MUST_USE kd_status resolved_settle_devices(worker *w);

/*
 * Gives a job that was checked what a checkpoint holds. KD_ERR_INVALID: it names another value, its ranks
 * cannot share batches in such parts, or the checkpoint's value is out of range; names the field.
 */
KD_MUST_USE kd_status resolved_take(Kd__Job *job, const char *made_with);

/* Makes the fields absent, as if the job had left all of them to be decided. */
KD_MUST_USE kd_status resolved_forget(Kd__Job *job);

/* Adds a line for each field. */
KD_MUST_USE kd_status resolved_write(const Kd__Job *job, kd_text *lines);

#endif
