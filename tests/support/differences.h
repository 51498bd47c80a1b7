/*
 * differences.h - gradients of parameters against central differences, in f32.
 *
 * The differences are extrapolated (Richardson), which leaves an error of h^4: at a step of 2^-6 that
 * and rounding, about 1e-6 / h for a loss of order one, leave a relative error below 1e-4. Choices of
 * experts must not flip within a step.
 */
#ifndef KD_TESTS_DIFFERENCES_H
#define KD_TESTS_DIFFERENCES_H

#include "model/parameters.h"

typedef struct differences {
    kd_parameters *params;
    double (*loss)(void *user); /* with the weights as they are now */
    void *user;
    int64_t stride;         /* every stride-th element of each entry is tried */
    kd_parameter_role skip; /* entries that the loss does not read            */
} differences;

/*
 * Compares params->grad as it is with the slopes of the loss: a Criterion expectation for each
 * element, and one for the whole.
 */
void differences_check(const differences *d, const char *what);

#endif
