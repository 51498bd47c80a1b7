/*
 * count.h - what a shape costs: parameters, and floating-point operations per token. No tensors. A
 * configuration that kd_model_config_check() accepts overflows none of the counts.
 *
 * Pure. Threads: any.
 */
#ifndef KD_SHAPE_COUNT_H
#define KD_SHAPE_COUNT_H

#include <stdint.h>

#include "shape/config.h"

/* All parameters, and those that one token uses (K of E experts). */
int64_t kd_model_config_parameters(const kd_model_config *config);
int64_t kd_model_config_active_parameters(const kd_model_config *config);

/*
 * Floating-point operations of matrix products per token: 2 per active weight of the layers and the
 * lm_head (not the embedding), attention scores left out. A backward pass costs twice the forward.
 */
double kd_model_config_forward_flops(const kd_model_config *config);
#define KD_BACKWARD_OVER_FORWARD 2.0

/* The lm_head's part of it. */
double kd_model_config_vocabulary_flops(const kd_model_config *config);

#endif
