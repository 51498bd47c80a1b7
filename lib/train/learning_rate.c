#include "train/learning_rate.h"

#include <math.h>

#include "base/status.h"

static const double pi = 3.14159265358979323846;

double kd_learning_rate_at(const kd_learning_rate *rate, uint64_t step)
{
    if (step < rate->warmup_steps) {
        return rate->peak * (double)(step + 1) / (double)rate->warmup_steps;
    }
    double t = 1.0;
    if (step < rate->steps) {
        t = (double)(step - rate->warmup_steps) / (double)(rate->steps - rate->warmup_steps);
    }
    const double f = rate->final_ratio;
    switch (rate->decay) {
    case KD_DECAY_COSINE:
        return rate->peak * (f + (1.0 - f) * (1.0 + cos(pi * t)) / 2.0);
    case KD_DECAY_LINEAR:
        return rate->peak * (1.0 - (1.0 - f) * t);
    case KD_DECAY_CONSTANT:
        return rate->peak;
    }
    KD_CHECK(!"a decay of unknown kind");
    return 0.0;
}
