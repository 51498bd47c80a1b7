/*
 * tiny_objective.h - a job's message Objective with everything in place, for tests: constants, which
 * a test changes in place.
 */
#ifndef KD_TESTS_TINY_OBJECTIVE_H
#define KD_TESTS_TINY_OBJECTIVE_H

#include "proto/job.pb-c.h"

/* Its parts point at each other: it is not copied. */
typedef struct tiny_objective {
    Kd__Objective message;
    Kd__SoftTarget kd;
    Kd__HardTarget hard;
    Kd__Balance balance;
    Kd__RouterZ z;
    Kd__Schedule kd_weight, temperature, hard_weight, balance_weight, z_weight;
} tiny_objective;

/* balance and z weigh 0. */
void tiny_objective_init(tiny_objective *o, double kd, double hard, double temperature);

/* A schedule of two points, which the caller gives room for. */
typedef struct tiny_points {
    Kd__Schedule__Point points[2], *list[2];
} tiny_points;

Kd__Schedule tiny_schedule(tiny_points *room,
                           Kd__Schedule__Kind kind,
                           uint64_t first_step,
                           double first,
                           uint64_t second_step,
                           double second);

#endif
