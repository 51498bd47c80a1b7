/*
 * router_pull.h - a listener that adds balance and z, summed over rows, as means over the layers.
 */
#ifndef KD_TESTS_ROUTER_PULL_H
#define KD_TESTS_ROUTER_PULL_H

#include "model/decoder.h"

typedef struct router_pull {
    kd_backend *be;
    float balance_scale, z_scale; /* of one layer */
    kd_tensor sums;               /* (2) f64: balance and z, over rows and layers; owned */
} router_pull;

/* Listens to the decoder from now on; both must outlive that. */
void router_pull_start(router_pull *pull,
                       kd_backend *be,
                       kd_decoder *decoder,
                       double balance_weight,
                       double z_weight,
                       int64_t n_layers);
void router_pull_finish(router_pull *pull);

#endif
