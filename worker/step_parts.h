/*
 * step_parts.h - the times of a step's parts as messages have them.
 *
 * Pure.
 */
#ifndef KD_WORKER_STEP_PARTS_H
#define KD_WORKER_STEP_PARTS_H

#include "proto/control.pb-c.h"
#include "train/step_time.h"

/* Storage of the repeated field: `list` points into `parts`. */
typedef struct step_parts {
    Kd__PartTime parts[KD_STEP_PARTS];
    Kd__PartTime *list[KD_STEP_PARTS];
} step_parts;

void step_parts_fill(step_parts *parts, const kd_step_times *times);

#endif
