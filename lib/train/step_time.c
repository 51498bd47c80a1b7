/* step_time.c - a list of marks, each of which ends a part; the sums are made when the queue is past all. */
#include "train/step_time.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "base/log.h"

const char *kd_step_part_name(kd_step_part part)
{
#define NAME_OF(part, name) name,
    static const char *const names[] = {KD_STEP_PARTS_EACH(NAME_OF)};
#undef NAME_OF
    KD_CHECK(part < KD_STEP_PARTS);
    return names[part];
}

kd_step_times kd_step_times_none(void)
{
    kd_step_times times;
    for (int part = 0; part < KD_STEP_PARTS; part++) {
        times.seconds[part] = (double)NAN;
    }
    return times;
}

kd_step_clock kd_step_clock_of(kd_backend *be)
{
    return (kd_step_clock){.be = be, .is_idle = true};
}

void kd_step_clock_release(kd_step_clock *clock)
{
    if (clock->be != NULL) {
        clock->be->ops->marks_destroy(clock->be, clock->marks);
    }
    free(clock->closes);
    *clock = (kd_step_clock){0};
}

/* Room for n marks; none is there afterwards if it fails. */
static bool reserve(kd_step_clock *clock, int n)
{
    kd_backend *be = clock->be;
    if (n <= clock->n_max) {
        return true;
    }
    kd_step_clock_release(clock);
    *clock = kd_step_clock_of(be);
    clock->closes = calloc((size_t)n, sizeof *clock->closes);
    clock->marks = clock->closes != NULL ? be->ops->marks_create(be, n) : NULL;
    clock->n_max = clock->marks != NULL ? n : 0;
    return clock->marks != NULL;
}

void kd_step_clock_begin(kd_step_clock *clock, int64_t n_parts)
{
    kd_backend *be = clock->be;
    KD_CHECK(n_parts >= 0);
    if (clock->is_pending) { /* of a step that failed, say, and that nobody asked for */
        kd_step_times dropped;
        (void)kd_step_clock_read(clock, &dropped);
    }
    clock->is_idle = clock->is_pending || be->fault != KD_OK || n_parts >= INT_MAX ||
                     !reserve(clock, (int)n_parts + 1);
    if (!clock->is_idle) {
        clock->n = 0;
        be->ops->mark(be, clock->marks, clock->n++);
    }
}

void kd_step_clock_close(kd_step_clock *clock, kd_step_part part)
{
    if (clock->is_idle) {
        return;
    }
    KD_CHECK(clock->n < clock->n_max);
    clock->closes[clock->n] = part;
    clock->be->ops->mark(clock->be, clock->marks, clock->n++);
    clock->is_pending = true;
}

bool kd_step_clock_read(kd_step_clock *clock, kd_step_times *times_out)
{
    kd_step_times times = kd_step_times_none();
    kd_backend *be = clock->be;
    double seconds = 0.0;
    /* The last one first: where it is ahead nothing else needs to be asked. */
    if (!clock->is_pending ||
        !be->ops->marks_elapsed(be, clock->marks, 0, clock->n - 1, &seconds)) {
        return false;
    }
    clock->is_pending = false;
    for (int i = 1; i < clock->n; i++) {
        double *sum = &times.seconds[clock->closes[i]];
        if (!be->ops->marks_elapsed(be, clock->marks, i - 1, i, &seconds)) {
            return false;
        }
        *sum = isnan(*sum) ? seconds : *sum + seconds;
    }
    *times_out = times;
    return true;
}
