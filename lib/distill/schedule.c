/* schedule.c - between which two points a step lies, and how far. */
#include "distill/schedule.h"

#include <math.h>

#include "base/status.h"

static const double pi = 3.14159265358979323846;

/* How far the value has gone from one point to the next after the share t of the steps between. */
static double progress(Kd__Schedule__Kind kind, double t)
{
    switch (kind) {
    case KD__SCHEDULE__KIND__STEP:
        return 0.0;
    case KD__SCHEDULE__KIND__LINEAR:
        return t;
    case KD__SCHEDULE__KIND__COSINE:
        return (1.0 - cos(pi * t)) / 2.0;
    case _KD__SCHEDULE__KIND_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a schedule of unknown kind");
    return 0.0;
}

double kd_schedule_at(const Kd__Schedule *schedule, uint64_t step)
{
    if (schedule->has_value) {
        return schedule->value;
    }
    KD_CHECK(schedule->n_points > 0);
    Kd__Schedule__Point *const *points = schedule->points;
    const size_t last = schedule->n_points - 1;
    size_t i = 0;
    if (step < points[0]->step) {
        return points[0]->value;
    }
    while (i < last && points[i + 1]->step <= step) {
        i++;
    }
    if (i == last) {
        return points[last]->value;
    }
    const uint64_t from = points[i]->step, to = points[i + 1]->step;
    const double t = (double)(step - from) / (double)(to - from);
    return points[i]->value +
           progress(schedule->kind, t) * (points[i + 1]->value - points[i]->value);
}
