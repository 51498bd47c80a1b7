/*
 * metrics.c - averages that forget, since a rate of an hour ago says nothing about the time that is left.
 */
#include "daemon/metrics.h"

/* The first value is taken whole; compilation and cold caches make it a bad one, so it fades. */
static void blend(double *average, double value, bool first)
{
    *average = first ? value : *average + (value - *average) / 16.0;
}

void metrics_add(metrics *m, uint64_t step, double time, double tokens_per_second)
{
    blend(&m->tokens_per_second, tokens_per_second, m->n_reports == 0);
    if (m->n_reports > 0 && step > m->last_step && time > m->last_time) {
        const double seconds = (time - m->last_time) / (double)(step - m->last_step);
        blend(&m->seconds_per_step, seconds, m->seconds_per_step <= 0.0);
    }
    m->last_step = step;
    m->last_time = time;
    m->n_reports++;
}

bool metrics_eta(const metrics *m, uint64_t steps, double *seconds_out)
{
    if (m->seconds_per_step <= 0.0) {
        return false;
    }
    const uint64_t left = steps > m->last_step ? steps - m->last_step : 0;
    *seconds_out = (double)left * m->seconds_per_step;
    return true;
}
