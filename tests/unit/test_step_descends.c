/* What takes many steps: the gradient against differences of the loss, and that the loss falls. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "tests/support/tiny_train.h"

static double loss_of(tiny_train *t, const kd_batch *batch)
{
    kd_step_result result;
    cr_assert_eq(tiny_train_step(t, 0, batch, 1, &result), KD_OK);
    return result.loss;
}

/*
 * Central difference of the loss in one weight, extrapolated (Richardson): an error of h^4. The
 * steps are so small that no token's choice of experts flips, where the loss has no slope.
 */
static double slope_of(tiny_train *t, const kd_batch *batch, int64_t element)
{
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    double slopes[2];
    float value;
    kd_parameters_read(params, element, &value, 1);
    for (int i = 0; i < 2; i++) {
        const float h = i == 0 ? 0.00390625f : 0.001953125f;
        double losses[2];
        for (int side = 0; side < 2; side++) {
            const float moved = side == 0 ? value - h : value + h;
            kd_parameters_write(params, element, &moved, 1);
            losses[side] = loss_of(t, batch);
        }
        slopes[i] = (losses[1] - losses[0]) / (2.0 * (double)h);
    }
    kd_parameters_write(params, element, &value, 1);
    return (4.0 * slopes[1] - slopes[0]) / 3.0;
}

/* With a learning rate of 0 a step leaves the weights, and the gradient stays where it was summed.
 */
static void expect_true_gradient(const kd_model_type *type)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.training.learning_rate = 0.0;
    settings.objective.balance_weight.value = 0.2;
    settings.objective.z_weight.value = 0.1;
    tiny_train *t = tiny_train_create(type, KD_F32, &settings);
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    double difference = 0.0, size = 0.0;

    (void)loss_of(t, &t->whole);
    float *grad = tiny_values(t->be, params->grad);
    for (int e = 0; e < params->n_table; e++) {
        for (int64_t k = 0; k < 3 && k < params->table[e].n_elements; k++) {
            const int64_t i = params->table[e].offset + (k * 37 + 5) % params->table[e].n_elements;
            const double found = (double)grad[i], wanted = slope_of(t, &t->whole, i);
            difference += (found - wanted) * (found - wanted);
            size += wanted * wanted;
            cr_expect_float_eq(found, wanted, 2e-4 + 2e-2 * fabs(wanted), "%s of layer %lld: %g %g",
                               kd_parameter_role_name(params->table[e].role),
                               (long long)params->table[e].layer, found, wanted);
        }
    }
    cr_expect_lt(sqrt(difference / size), 2e-3);
    free(grad);
    tiny_train_destroy(t);
}

Test(step, gradient_of_the_weighted_sum_agrees_with_central_differences)
{
    expect_true_gradient(&kd_model_mixtral);
    expect_true_gradient(&kd_model_llama);
}

static void expect_falling(kd_dtype compute)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, compute, NULL);
    kd_step_result first, last;
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &first), KD_OK);
    for (uint64_t step = 1; step < 60; step++) {
        cr_assert_eq(tiny_train_step(t, step, &t->whole, 1, &last), KD_OK);
    }
    cr_expect_lt(last.loss, 0.7 * first.loss, "from %g to %g", first.loss, last.loss);
    cr_expect_lt(last.losses[0].raw, 0.7 * first.losses[0].raw);
    tiny_train_destroy(t);
}

Test(step, loss_falls)
{
    expect_falling(KD_F32);
    expect_falling(KD_BF16);
}
