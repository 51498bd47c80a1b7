#include "tests/support/differences.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "tests/support/tiny_model.h"

#define STEP              0.015625f
#define ELEMENT_TOLERANCE 2e-2 /* relative, of elements above the floor       */
#define ELEMENT_FLOOR     2e-2 /* times the root mean square of all gradients */
#define VECTOR_TOLERANCE  3e-4 /* norm of the difference over the norm        */

/* (loss(w + h) - loss(w - h)) / 2 h for element i of the flat numbering. */
static double slope(const differences *d, int64_t i, float value, float h)
{
    const float up = value + h, down = value - h;

    kd_parameters_write(d->params, i, &up, 1);
    const double loss_up = d->loss(d->user);
    kd_parameters_write(d->params, i, &down, 1);
    const double loss_down = d->loss(d->user);
    kd_parameters_write(d->params, i, &value, 1);
    return (loss_up - loss_down) / ((double)up - (double)down);
}

static double numeric_gradient(const differences *d, int64_t i)
{
    float value;
    kd_parameters_read(d->params, i, &value, 1);
    return (4.0 * slope(d, i, value, STEP / 2) - slope(d, i, value, STEP)) / 3.0;
}

static double root_mean_square(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i] * (double)x[i];
    }
    return sqrt(sum / (double)n);
}

/* Compares one entry; adds to the squares of difference and size. */
static void check_entry(const differences *d,
                        const char *what,
                        const kd_parameter *entry,
                        const float *analytic,
                        double floor,
                        double *squares)
{
    for (int64_t i = entry->offset % d->stride; i < entry->n_elements; i += d->stride) {
        const double found = (double)analytic[entry->offset + i];
        const double wanted = numeric_gradient(d, entry->offset + i);
        const double scale = fmax(fabs(wanted), floor);
        cr_expect(fabs(found - wanted) <= ELEMENT_TOLERANCE * scale,
                  "%s: %s, element %d: %.6g, by differences %.6g", what, entry->name, (int)i, found,
                  wanted);
        squares[0] += (found - wanted) * (found - wanted);
        squares[1] += wanted * wanted;
    }
}

void differences_check(const differences *d, const char *what)
{
    const kd_parameters *p = d->params;
    double squares[2] = {0.0, 0.0};
    float *analytic = tiny_values(p->be, p->grad);
    const double floor = ELEMENT_FLOOR * root_mean_square(analytic, p->n_elements);

    cr_expect_gt(floor, 0.0, "%s: no gradient at all", what);
    for (int i = 0; i < p->n_table; i++) {
        if (p->table[i].role != d->skip) {
            check_entry(d, what, &p->table[i], analytic, floor, squares);
        }
    }
    const double error = sqrt(squares[0] / squares[1]);
    cr_expect(error <= VECTOR_TOLERANCE, "%s: all gradients: relative error %.2e", what, error);
    free(analytic);
}
