/*
 * schedule.h - a number that may change over the steps of a job: weights and the temperature.
 *
 * With points (s_0, v_0) ... (s_n, v_n): v_0 before s_0, v_n from s_n on, and between
 * s_i <= step < s_i+1, with t = (step - s_i) / (s_i+1 - s_i),
 *
 *   step     v_i
 *   linear   v_i + t (v_i+1 - v_i)
 *   cosine   v_i + (1 - cos(pi t)) / 2 * (v_i+1 - v_i)
 *
 * A constant has a value instead of points. A step's number is how many were made before it.
 */
#ifndef KD_DISTILL_SCHEDULE_H
#define KD_DISTILL_SCHEDULE_H

#include <stdint.h>

#include "proto/job.pb-c.h"

/* The schedule must be one that a job may have: a value, or points that ascend. */
double kd_schedule_at(const Kd__Schedule *schedule, uint64_t step);

#endif
