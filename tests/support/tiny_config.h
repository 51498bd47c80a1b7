/* tiny_config.h - the smallest shapes that meet every branch, one of each type. */
#ifndef KD_TESTS_TINY_CONFIG_H
#define KD_TESTS_TINY_CONFIG_H

#include "shape/config.h"

/* V 11, C 8, L 2, E 4, K 2; head counts and widths differ from type to type, and are odd where they may be. */
kd_model_config tiny_config(const kd_model_type *type);

#endif
