/*
 * open_steps.h - which steps a channel may move messages of, and which groups travel in each: what
 * both kinds of channel keep of the orders that have come.
 *
 * A queue of bounded length. Threads: that of the channel.
 */
#ifndef KD_DISTILL_OPEN_STEPS_H
#define KD_DISTILL_OPEN_STEPS_H

#include <stdint.h>

#include "base/status.h"

typedef struct kd_open_step {
    uint64_t first_m, end_m; /* first_m <= m < end_m */
    uint64_t groups;         /* bit g for group g of the message; 0: nothing travels */
} kd_open_step;

typedef struct kd_open_steps {
    kd_open_step *ring; /* (n_room), owned */
    int n_room, n_steps;
    int oldest; /* of the ring */
} kd_open_steps;

/* Room for n_room steps at a time. */
KD_MUST_USE kd_status kd_open_steps_init(kd_open_steps *steps, int n_room);
void kd_open_steps_release(kd_open_steps *steps); /* fine on {0} */

/* KD_ERR_STATE if the step is empty, does not begin where the one before ends, or finds no room. */
KD_MUST_USE kd_status kd_open_steps_add(kd_open_steps *steps, const kd_open_step *step);

/* The step of m; NULL if it is not open (yet, or any more). */
const kd_open_step *kd_open_steps_find(const kd_open_steps *steps, uint64_t m);

/* Forgets the steps that end at or before m, but for the newest, so that the next one can follow it. */
void kd_open_steps_pass(kd_open_steps *steps, uint64_t m);

#endif
