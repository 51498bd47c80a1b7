/*
 * source.h - where the micro-batches of a job come from, by their global numbers.
 *
 * next() gives micro-batch m. A step asks for each of its micro-batches twice, in ascending order
 * both times: to count what its losses divide by, then to run it; it gets the same both times. What
 * a batch points to is the source's, and stays until the next call.
 *
 * Threads: the one that runs the step.
 */
#ifndef KD_TRAIN_SOURCE_H
#define KD_TRAIN_SOURCE_H

#include "base/status.h"
#include "model/batch.h"

typedef struct kd_source {
    void *user;
    kd_status (*next)(void *user, uint64_t m, kd_batch *batch_out);
} kd_source;

#endif
