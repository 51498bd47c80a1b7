/*
 * group.h - parameters that are treated alike in training: the model's, adapters, LoRA factors.
 *
 * A step works on a list of groups. Each has slabs and an all-reduce of its own, and its gradient
 * is measured and clipped by itself. A group whose parameters were created for inference is frozen:
 * it has neither master weights nor gradient nor moments, and nothing is computed for them.
 *
 * Threads: that of the back end.
 */
#ifndef KD_MODEL_GROUP_H
#define KD_MODEL_GROUP_H

#include "model/parameters.h"

#define KD_GROUPS_MAX 4

typedef struct kd_group {
    const char *name;      /* static; for messages                                          */
    kd_parameters *params; /* borrowed                                                      */
    bool decay;            /* of its matrices; vectors never decay                          */
    bool exported;         /* part of what is saved for other tools, and of `gradient_norm` */
    double rate;           /* its learning rate over that of the step                       */
    double clip_norm;      /* its gradient's norm is cut to this; 0: no clipping            */
} kd_group;

static inline bool kd_group_trained(const kd_group *group)
{
    return group->params->use == KD_PARAMS_TRAIN;
}

#endif
