/*
 * learning_rate.h - warm-up, then decay.
 *
 * Steps count from 0: step s makes update s + 1. With the fields of the message Training, w =
 * warmup_steps, n = steps, f = final_learning_rate_ratio, peak = learning_rate:
 *
 *   s < w:   peak * (s + 1) / w
 *   else, t = (s - w) / (n - w), at most 1:
 *     cosine    peak * (f + (1 - f) * (1 + cos(pi t)) / 2)
 *     linear    peak * (1 - (1 - f) t)
 *     constant  peak
 */
#ifndef KD_TRAIN_LEARNING_RATE_H
#define KD_TRAIN_LEARNING_RATE_H

#include <stdint.h>

#include "proto/job.pb-c.h"

double kd_learning_rate_at(const Kd__Training *training, uint64_t step);

#endif
