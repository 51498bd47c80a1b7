/*
 * open_steps.c - a ring of steps. The newest stays when it is passed, so that the next one can be held
 * against its end: a step left out would shift every message after it.
 */
#include "distill/open_steps.h"

#include <stdlib.h>

#include "base/log.h"

kd_status kd_open_steps_init(kd_open_steps *steps, int n_room)
{
    KD_CHECK(n_room > 0);
    n_room++; /* the newest stays when it is passed */
    kd_open_step *ring = malloc((size_t)n_room * sizeof *ring);
    if (ring == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %d open steps", n_room);
    }
    *steps = (kd_open_steps){.ring = ring, .n_room = n_room};
    return KD_OK;
}

void kd_open_steps_release(kd_open_steps *steps)
{
    free(steps->ring);
    *steps = (kd_open_steps){0};
}

static const kd_open_step *at(const kd_open_steps *steps, int i)
{
    KD_CHECK(steps->ring != NULL);
    return &steps->ring[(steps->oldest + i) % steps->n_room];
}

kd_status kd_open_steps_add(kd_open_steps *steps, const kd_open_step *step)
{
    const kd_open_step *newest = steps->n_steps > 0 ? at(steps, steps->n_steps - 1) : NULL;
    if (step->first_m >= step->end_m || (newest != NULL && newest->end_m != step->first_m)) {
        return kd_fail(KD_ERR_STATE,
                       "a step of micro-batches %llu to %llu opened after those to %llu",
                       (unsigned long long)step->first_m, (unsigned long long)step->end_m,
                       (unsigned long long)(newest != NULL ? newest->end_m : 0));
    }
    if (steps->n_steps == steps->n_room) {
        return kd_fail(KD_ERR_STATE, "micro-batch %llu opened while %d steps are open: no room",
                       (unsigned long long)step->first_m, steps->n_steps);
    }
    steps->ring[(steps->oldest + steps->n_steps) % steps->n_room] = *step;
    steps->n_steps++;
    return KD_OK;
}

const kd_open_step *kd_open_steps_find(const kd_open_steps *steps, uint64_t m)
{
    for (int i = 0; i < steps->n_steps; i++) {
        const kd_open_step *step = at(steps, i);
        if (m >= step->first_m && m < step->end_m) {
            return step;
        }
    }
    return NULL;
}

void kd_open_steps_pass(kd_open_steps *steps, uint64_t m)
{
    while (steps->n_steps > 1 && at(steps, 0)->end_m <= m) {
        steps->oldest = (steps->oldest + 1) % steps->n_room;
        steps->n_steps--;
    }
}
