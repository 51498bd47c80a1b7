/*
 * objective_state.h - what an objective is made of. Internal to lib/distill.
 */
#ifndef KD_DISTILL_OBJECTIVE_STATE_H
#define KD_DISTILL_OBJECTIVE_STATE_H

#include "distill/objective.h"

struct kd_objective {
    kd_loss_context context;
    Kd__Objective *message; /* owned: the values in force */
    kd_model_config student;
    kd_model_config *configs;  /* (n_teachers), owned */
    kd_teacher_view *teachers; /* (n_teachers), owned */
    void **no_messages;        /* (n_teachers) NULL, owned */
    kd_signal_plan plan;       /* owned */
    kd_tensor *chunk_logits;   /* (n_teachers) of the chunk at hand, owned */
    kd_loss losses[KD_LOSSES_MAX];
    int n_losses;
    bool labelled; /* the step begun last */

    void *slab;
    size_t slab_bytes;
    kd_tensor d_hidden; /* (max_rows, C) f32 */
    kd_tensor sums;     /* (n) f64 */
};

#endif
