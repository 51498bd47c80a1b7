/* step_parts.c - a part that did not take place is told all the same, without seconds: its column is there. */
#include "worker/step_parts.h"

#include <math.h>

void step_parts_fill(step_parts *parts, const kd_step_times *times)
{
    for (int i = 0; i < KD_STEP_PARTS; i++) {
        Kd__PartTime *part = &parts->parts[i];
        kd__part_time__init(part);
        part->name = (char *)kd_step_part_name((kd_step_part)i); /* only read */
        part->has_seconds = !isnan(times->seconds[i]);
        part->seconds = part->has_seconds ? times->seconds[i] : 0.0;
        parts->list[i] = part;
    }
}
