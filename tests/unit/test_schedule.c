#include <criterion/criterion.h>

#include <math.h>

#include "distill/schedule.h"
#include "tests/support/tiny_objective.h"

static double at(Kd__Schedule__Kind kind, uint64_t step)
{
    tiny_points room;
    const Kd__Schedule s = tiny_schedule(&room, kind, 10, 4.0, 20, 1.0);
    return kd_schedule_at(&s, step);
}

Test(schedule, constant_is_itself_at_every_step)
{
    Kd__Schedule s = KD__SCHEDULE__INIT;
    s.has_value = 1;
    s.value = 0.7;
    cr_expect_eq(kd_schedule_at(&s, 0), 0.7);
    cr_expect_eq(kd_schedule_at(&s, UINT64_MAX), 0.7);
}

Test(schedule, ends_hold_outside_the_points)
{
    for (int i = KD__SCHEDULE__KIND__STEP; i <= KD__SCHEDULE__KIND__COSINE; i++) {
        const Kd__Schedule__Kind kind = (Kd__Schedule__Kind)i;
        cr_expect_eq(at(kind, 0), 4.0);
        cr_expect_eq(at(kind, 10), 4.0);
        cr_expect_eq(at(kind, 20), 1.0);
        cr_expect_eq(at(kind, 999), 1.0);
    }
}

Test(schedule, values_between_points_follow_the_formula)
{
    cr_expect_eq(at(KD__SCHEDULE__KIND__STEP, 19), 4.0);
    cr_expect_float_eq(at(KD__SCHEDULE__KIND__LINEAR, 15), 2.5, 1e-12);
    cr_expect_float_eq(at(KD__SCHEDULE__KIND__COSINE, 15), 2.5, 1e-12);
    cr_expect_float_eq(at(KD__SCHEDULE__KIND__COSINE, 12),
                       4.0 - 3.0 * (1.0 - cos(0.2 * M_PI)) / 2.0, 1e-12);
}
