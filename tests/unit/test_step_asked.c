/* What can be asked of a trainer without an update: losses, and the logits of both models. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

Test(step, losses_can_be_asked_for_without_an_update)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.balance_weight.value = 0.2;
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    const size_t bytes = (size_t)kd_trainer_parameters(t->trainer)->n_elements * sizeof(float);
    const kd_step_work work = tiny_train_open(t, 0, &t->whole, 1);
    const kd_reduce alone = kd_reduce_single();
    kd_step_result asked, stepped;
    float *before = tiny_train_weights(t);
    cr_assert_eq(kd_trainer_losses(t->trainer, &work, &t->channel, &alone, &asked), KD_OK);
    float *after = tiny_train_weights(t);
    cr_expect_arr_eq(before, after, bytes);
    cr_expect_not(asked.updated);
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &stepped), KD_OK);
    cr_expect(stepped.updated);
    cr_expect_eq(asked.loss, stepped.loss);
    cr_expect_eq(asked.gradient_norm, stepped.gradient_norm);
    cr_assert_eq(asked.n_losses, stepped.n_losses);
    for (int i = 0; i < asked.n_losses; i++) {
        cr_expect_eq(asked.losses[i].raw, stepped.losses[i].raw);
    }
    free(after);
    free(before);
    tiny_train_destroy(t);
}

/* The mean cross-entropy that follows from (N, V) logits. */
static double cross_entropy(const float *logits, const int32_t *labels, int64_t n_vocab)
{
    double total = 0.0;
    int64_t n = 0;
    for (int64_t i = 0; i < TINY_ROWS; i++) {
        double sum = 0.0;
        if (labels[i] < 0) {
            continue;
        }
        for (int64_t v = 0; v < n_vocab; v++) {
            sum += exp((double)logits[i * n_vocab + v]);
        }
        total += log(sum) - (double)logits[i * n_vocab + labels[i]];
        n++;
    }
    return total / (double)n;
}

Test(step, logits_of_student_and_teacher_can_be_seen)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    float logits[TINY_ROWS * 11], taught[TINY_ROWS * 11];
    kd_step_result r;
    cr_assert_eq(kd_trainer_logits(t->trainer, &t->whole, logits), KD_OK);
    cr_assert_eq(kd_teacher_logits(t->teacher, &t->whole, taught), KD_OK);
    cr_assert_eq(tiny_train_step(t, 0, &t->whole, 1, &r), KD_OK);
    cr_expect_float_eq(cross_entropy(logits, t->batch.labels, 11), r.losses[1].raw, 1e-5);
    cr_expect_gt(fabs(cross_entropy(taught, t->batch.labels, 11) - r.losses[1].raw), 1e-3);
    t->batch.tokens[2] = 11;
    kd_fault_quiet(1);
    cr_expect_eq(kd_trainer_logits(t->trainer, &t->whole, logits), KD_ERR_INVALID);
    cr_expect_eq(kd_teacher_logits(t->teacher, &t->whole, taught), KD_ERR_INVALID);
    tiny_train_destroy(t);
}
