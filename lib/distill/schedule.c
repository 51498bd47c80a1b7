#include "distill/schedule.h"

#include <inttypes.h>
#include <math.h>

#include "base/log.h"

static const double pi = 3.14159265358979323846;

kd_schedule kd_schedule_constant(double value)
{
    return (kd_schedule){.kind = KD_SCHEDULE_STEP, .n_points = 1, .points = {{0, value}}};
}

kd_status kd_schedule_check(const kd_schedule *schedule, const char *what, double least)
{
    const int n = schedule->n_points;
    if (n < 1 || n > KD_SCHEDULE_POINTS_MAX) {
        return kd_fail(KD_ERR_INVALID, "%s: found %d points, expected 1 to %d", what, n,
                       KD_SCHEDULE_POINTS_MAX);
    }
    for (int i = 0; i < n; i++) {
        const kd_schedule_point *point = &schedule->points[i];
        if (!isfinite(point->value) || point->value < least) {
            return kd_fail(KD_ERR_INVALID,
                           "%s, point %d: found %g, expected a finite value of at least %g", what,
                           i, point->value, least);
        }
        if (i > 0 && point->step <= point[-1].step) {
            return kd_fail(KD_ERR_INVALID,
                           "%s, point %d: found step %" PRIu64 ", expected one after %" PRIu64,
                           what, i, point->step, point[-1].step);
        }
    }
    return KD_OK;
}

/* How far the value has gone from one point to the next after the share t of the steps between. */
static double progress(kd_schedule_kind kind, double t)
{
    switch (kind) {
    case KD_SCHEDULE_STEP:
        return 0.0;
    case KD_SCHEDULE_LINEAR:
        return t;
    case KD_SCHEDULE_COSINE:
        return (1.0 - cos(pi * t)) / 2.0;
    }
    KD_CHECK(!"a schedule of unknown kind");
    return 0.0;
}

double kd_schedule_at(const kd_schedule *schedule, uint64_t step)
{
    const kd_schedule_point *points = schedule->points;
    const int last = schedule->n_points - 1;
    KD_CHECK(last >= 0);

    if (step < points[0].step) {
        return points[0].value;
    }
    int i = 0;
    while (i < last && points[i + 1].step <= step) {
        i++;
    }
    if (i == last) {
        return points[last].value;
    }
    const double t =
        (double)(step - points[i].step) / (double)(points[i + 1].step - points[i].step);
    return points[i].value + progress(schedule->kind, t) * (points[i + 1].value - points[i].value);
}

bool kd_schedule_is_constant(const kd_schedule *schedule)
{
    for (int i = 1; i < schedule->n_points; i++) {
        if (schedule->points[i].value != schedule->points[0].value) {
            return false;
        }
    }
    return true;
}

bool kd_schedule_is_zero(const kd_schedule *schedule)
{
    return kd_schedule_is_constant(schedule) && schedule->points[0].value == 0.0;
}
