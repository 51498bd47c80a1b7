/* roles.h - which ranks a job's students are, and which its teachers' replicas. */
#ifndef KD_WORKER_ROLES_H
#define KD_WORKER_ROLES_H

#include "worker/worker.h"

/*
 * All ranks, once, with the same completed job. KD_ERR_INVALID if MPI started another number of ranks than it
 * wants; whatever one rank fails with, all do.
 */
KD_MUST_USE kd_status roles_assign(worker *w);

#endif
