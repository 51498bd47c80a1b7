#include <math.h>

#include "job/job.h"

/* Between two points, t in [0, 1) of the way. */
static double between(Kd__Schedule__Kind kind, double from, double to, double t)
{
    switch (kind) {
    case KD__SCHEDULE__KIND__STEP:
        return from;
    case KD__SCHEDULE__KIND__LINEAR:
        return from + t * (to - from);
    case KD__SCHEDULE__KIND__COSINE:
        return from + (1.0 - cos(M_PI * t)) / 2.0 * (to - from);
    case _KD__SCHEDULE__KIND_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a schedule that kd_job_check() passed");
    return from;
}

double kd_job_schedule_value(const Kd__Schedule *schedule, uint64_t step)
{
    const size_t n = schedule->n_points;
    Kd__Schedule__Point *const *points = schedule->points;
    if (n == 0) {
        return schedule->value;
    }
    if (step < points[0]->step) {
        return points[0]->value;
    }
    size_t i = 0; /* the last point passed */
    while (i + 1 < n && points[i + 1]->step <= step) {
        i++;
    }
    if (i + 1 == n) {
        return points[i]->value;
    }
    const double span = (double)(points[i + 1]->step - points[i]->step);
    const double t = (double)(step - points[i]->step) / span;
    return between(schedule->kind, points[i]->value, points[i + 1]->value, t);
}
