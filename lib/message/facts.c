/*
 * facts.c - one writing of a range for the generator, for mistakes and for explain: the one of job.proto.
 */
#include "message/facts.h"

#include <math.h>

bool kd_range_holds(const kd_range *range, double number)
{
    const bool above = range->least_open ? number > range->least : number >= range->least;
    const bool below = range->most_open ? number < range->most : number <= range->most;
    return isfinite(number) && above && below;
}

/* Fifteen digits show every end as it was written. */
static void add_end(kd_text *text, double end)
{
    if (isfinite(end)) {
        kd_text_printf(text, "%.15g", end);
    }
}

void kd_range_add(kd_text *text, const kd_range *range)
{
    kd_text_add(text, range->least_open ? "(" : "[");
    add_end(text, range->least);
    kd_text_add(text, "..");
    add_end(text, range->most);
    kd_text_add(text, range->most_open ? ")" : "]");
}
