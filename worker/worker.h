/*
 * worker.h - what all parts of one rank share, from the job's parsing to its end.
 */
#ifndef KD_WORKER_WORKER_H
#define KD_WORKER_WORKER_H

#include <limits.h>

#include "base/text.h"
#include "comm/world.h"
#include "proto/job.pb-c.h"
#include "train/checkpoint.h"
#include "train/step.h"
#include "worker/batches.h"
#include "worker/devices.h"
#include "worker/link.h"
#include "worker/live.h"

#define LEVEL_NAME_BYTES 16

/* Where this attempt goes on: of the leader, the same on every rank. */
typedef struct resume_point {
    uint64_t step;       /* steps made before */
    char path[PATH_MAX]; /* the checkpoint, or "" */
} resume_point;

typedef struct worker {
    kd_world *world;
    rank_link *link; /* NULL: no daemon */
    rank_devices devices;
    Kd__Job *job; /* completed and checked; resolved.h decides what it leaves open */
    live live;    /* what became of its values since */
    batches batches;
    kd_text identity;               /* of the job, its tokens and models (identity.h); owned */
    kd_text resolved;               /* what it left to be decided (resolved.h); owned */
    char kernels[LEVEL_NAME_BYTES]; /* the students' level or kind (level.h); "": none in common */
    uint64_t hash;                  /* of the identity: of another one no checkpoint is resumed */
    resume_point resume;
    uint64_t done; /* steps made so far, those before this attempt included */
} worker;

typedef enum worker_outcome {
    WORKER_COMPLETED, /* all steps done                       */
    WORKER_STOPPED,   /* as ordered, after a checkpoint or before the first step */
} worker_outcome;

#endif
