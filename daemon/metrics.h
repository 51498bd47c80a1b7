/* metrics.h - how fast a job goes and how long it will take, from the steps it reports. Pure. */
#ifndef KD_DAEMON_METRICS_H
#define KD_DAEMON_METRICS_H

#include <stdbool.h>
#include <stdint.h>

/* Starts as {0}, and again with each attempt. Averages forget with a weight of 1/16 a report. */
typedef struct metrics {
    double tokens_per_second;
    double seconds_per_step;
    uint64_t last_step;
    double last_time;
    uint64_t n_reports;
} metrics;

/* `time` in seconds; `tokens_per_second` as the rank measured it. */
void metrics_add(metrics *m, uint64_t step, double time, double tokens_per_second);

/* Seconds to the last of `steps`; false while two reports have not come. */
bool metrics_eta(const metrics *m, uint64_t steps, double *seconds_out);

#endif
