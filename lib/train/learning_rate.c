/*
 * learning_rate.c - a function of the step alone: a resumed job needs no memory of it, and a live change
 * of the peak takes effect at its step.
 */
#include "train/learning_rate.h"

#include <math.h>

#include "base/status.h"

static const double pi = 3.14159265358979323846;

double kd_learning_rate_at(const Kd__Training *training, uint64_t step)
{
    const uint64_t warmup = training->warmup_steps, steps = training->steps;
    const double peak = training->learning_rate, f = training->final_learning_rate_ratio;
    if (step < warmup) {
        return peak * (double)(step + 1) / (double)warmup;
    }
    double t = 1.0;
    if (step < steps) {
        t = (double)(step - warmup) / (double)(steps - warmup);
    }
    switch (training->decay) {
    case KD__TRAINING__DECAY__COSINE:
        return peak * (f + (1.0 - f) * (1.0 + cos(pi * t)) / 2.0);
    case KD__TRAINING__DECAY__LINEAR:
        return peak * (1.0 - (1.0 - f) * t);
    case KD__TRAINING__DECAY__CONSTANT:
        return peak;
    case _KD__TRAINING__DECAY_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a decay of unknown kind");
    return 0.0;
}
