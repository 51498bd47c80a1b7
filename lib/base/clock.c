/* clock.c - a clock that cannot be read is a fault of the platform, not of the caller: no status. */
#include "base/clock.h"

#include <time.h>

#include "base/status.h"

uint64_t kd_clock_monotonic_ns(void)
{
    struct timespec now;
    KD_CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

double kd_clock_monotonic_s(void)
{
    return (double)kd_clock_monotonic_ns() * 1e-9;
}

double kd_clock_wall_s(void)
{
    struct timespec now;
    KD_CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
