/*
 * level.h - one level of CPU kernels for all student ranks (tensor/ops.h).
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
 * All ranks, once roles are assigned: w->cpu_level is what holds. made_with: the lines of a checkpoint
 * (resolved.h), "" without one. KD_ERR_INVALID: a student's processor is of another kind than the leader's.
 */
KD_MUST_USE kd_status level_settle(worker *w, const char *made_with);

/* Adds its line. */
void level_write(const worker *w, kd_text *lines);

/* Whether a line is level_write()'s. Pure. */
bool level_owns(const char *line);

#endif
