/*
 * dtype.h - what `dtype: auto` means for this job: bf16 for a role all of whose ranks have a device that
 * multiplies it, else f32; a teacher without ranks of its own runs on the student's.
 */
#ifndef KD_WORKER_DTYPE_H
#define KD_WORKER_DTYPE_H

#include "worker/worker.h"

/* All ranks, once their roles are assigned: the job then has the words that hold. */
KD_MUST_USE kd_status dtype_resolve(worker *w);

#endif
