/*
 * clock.h - the two clocks. Intervals are measured on the monotonic one only.
 *
 * Threads: any.
 */
#ifndef KD_BASE_CLOCK_H
#define KD_BASE_CLOCK_H

#include <stdint.h>

uint64_t kd_clock_monotonic_ns(void);
double kd_clock_monotonic_s(void);
double kd_clock_wall_s(void); /* seconds since 1970 */

#endif
