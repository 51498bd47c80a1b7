#include <criterion/criterion.h>

#include <math.h>

#include "base/log.h"
#include "distill/schedule.h"
#include "tests/support/fault.h"

static kd_schedule two_points(kd_schedule_kind kind)
{
    return (kd_schedule){.kind = kind, .n_points = 2, .points = {{10, 4.0}, {20, 1.0}}};
}

Test(schedule, constant_is_itself_at_every_step)
{
    const kd_schedule s = kd_schedule_constant(0.7);
    cr_expect_eq(kd_schedule_at(&s, 0), 0.7);
    cr_expect_eq(kd_schedule_at(&s, UINT64_MAX), 0.7);
    cr_expect(kd_schedule_is_constant(&s));
    cr_expect_not(kd_schedule_is_zero(&s));
}

Test(schedule, ends_hold_outside_the_points)
{
    for (int kind = KD_SCHEDULE_STEP; kind <= KD_SCHEDULE_COSINE; kind++) {
        const kd_schedule s = two_points((kd_schedule_kind)kind);
        cr_expect_eq(kd_schedule_at(&s, 0), 4.0);
        cr_expect_eq(kd_schedule_at(&s, 10), 4.0);
        cr_expect_eq(kd_schedule_at(&s, 20), 1.0);
        cr_expect_eq(kd_schedule_at(&s, 999), 1.0);
    }
}

Test(schedule, values_between_points_follow_the_formula)
{
    const kd_schedule step = two_points(KD_SCHEDULE_STEP);
    const kd_schedule linear = two_points(KD_SCHEDULE_LINEAR);
    const kd_schedule cosine = two_points(KD_SCHEDULE_COSINE);
    cr_expect_eq(kd_schedule_at(&step, 19), 4.0);
    cr_expect_float_eq(kd_schedule_at(&linear, 15), 2.5, 1e-12);
    cr_expect_float_eq(kd_schedule_at(&cosine, 15), 2.5, 1e-12);
    cr_expect_float_eq(kd_schedule_at(&cosine, 12), 4.0 - 3.0 * (1.0 - cos(0.2 * M_PI)) / 2.0,
                       1e-12);
}

Test(schedule, zero_means_zero_at_every_point)
{
    kd_schedule s = {.kind = KD_SCHEDULE_LINEAR, .n_points = 2, .points = {{0, 0.0}, {9, 0.0}}};
    cr_expect(kd_schedule_is_zero(&s));
    s.points[1].value = 0.5;
    cr_expect_not(kd_schedule_is_zero(&s));
    cr_expect_not(kd_schedule_is_constant(&s));
}

Test(schedule, bad_ones_are_refused_by_name)
{
    kd_schedule s = two_points(KD_SCHEDULE_LINEAR);
    kd_fault_quiet(1);
    cr_assert_eq(kd_schedule_check(&s, "temperature", 0.0), KD_OK);
    cr_expect_eq(kd_schedule_check(&s, "temperature", 2.0), KD_ERR_INVALID);
    EXPECT_FAULT("temperature, point 1: found 1");

    s.points[1].step = 10;
    cr_expect_eq(kd_schedule_check(&s, "temperature", 0.0), KD_ERR_INVALID);
    EXPECT_FAULT("found step 10, expected one after 10");

    s = kd_schedule_constant(NAN);
    cr_expect_eq(kd_schedule_check(&s, "temperature", 0.0), KD_ERR_INVALID);

    s.n_points = 0;
    cr_expect_eq(kd_schedule_check(&s, "temperature", 0.0), KD_ERR_INVALID);
    s.n_points = KD_SCHEDULE_POINTS_MAX + 1;
    cr_expect_eq(kd_schedule_check(&s, "temperature", 0.0), KD_ERR_INVALID);
}
