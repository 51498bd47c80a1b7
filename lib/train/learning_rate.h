/*
 * learning_rate.h - warm-up, then decay.
 *
 * Steps count from 0: step s makes update s + 1. With w = warmup_steps, n = steps, f = final_ratio:
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

typedef enum kd_decay { KD_DECAY_COSINE, KD_DECAY_LINEAR, KD_DECAY_CONSTANT } kd_decay;

typedef struct kd_learning_rate {
    double peak;
    uint64_t warmup_steps;
    uint64_t steps; /* of the whole job */
    kd_decay decay;
    double final_ratio; /* 0..1 */
} kd_learning_rate;

double kd_learning_rate_at(const kd_learning_rate *rate, uint64_t step);

#endif
