/*
 * level.h - one level of CPU kernels for all student ranks, or one kind of GPU (tensor/ops.h).
 *
 * Every student applies its own update: on unlike processors each would round in its own way and end in
 * other weights. So all take the lowest level that one of them is limited to, which is kept by the
 * checkpoints and wins at a resume where all still have it. Teachers take their own: their messages need
 * not be equal over replicas, and a replica's rank gives the same ones again.
 */
#ifndef KD_WORKER_LEVEL_H
#define KD_WORKER_LEVEL_H

#include "base/text.h"
#include "worker/worker.h"

/*
 * All ranks, once devices are resolved: w->kernels is what holds. made_with: the lines of a checkpoint
 * (resolved.h), "" without one. KD_ERR_INVALID: a student's device is of another kind than the leader's.
 */
KD_MUST_USE kd_status level_settle(worker *w, const char *made_with);

/* Whether the students' kernels are a GPU's. */
bool level_is_of_cuda(const worker *w);

/* Adds its line. */
void level_write(const worker *w, kd_text *lines);

/* Whether a line is level_write()'s. Pure. */
bool level_owns(const char *line);

#endif
