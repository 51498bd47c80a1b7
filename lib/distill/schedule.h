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
 * A constant is one point. A plain value without pointers: copy it freely.
 */
#ifndef KD_DISTILL_SCHEDULE_H
#define KD_DISTILL_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define KD_SCHEDULE_POINTS_MAX 32

typedef enum kd_schedule_kind {
    KD_SCHEDULE_STEP,
    KD_SCHEDULE_LINEAR,
    KD_SCHEDULE_COSINE,
} kd_schedule_kind;

typedef struct kd_schedule_point {
    uint64_t step;
    double value;
} kd_schedule_point;

typedef struct kd_schedule {
    kd_schedule_kind kind;
    int n_points;
    kd_schedule_point points[KD_SCHEDULE_POINTS_MAX]; /* strictly ascending in step */
} kd_schedule;

kd_schedule kd_schedule_constant(double value);

/*
 * KD_ERR_INVALID, naming `what` and the point: no points or too many of them, steps that do not
 * ascend, a value that is not finite or below `least`.
 */
KD_MUST_USE kd_status kd_schedule_check(const kd_schedule *schedule,
                                        const char *what,
                                        double least);

/* The schedule must have passed the check. */
double kd_schedule_at(const kd_schedule *schedule, uint64_t step);

bool kd_schedule_is_constant(const kd_schedule *schedule);

/* 0 at every step: what it weighs is neither computed nor sent. */
bool kd_schedule_is_zero(const kd_schedule *schedule);

#endif
