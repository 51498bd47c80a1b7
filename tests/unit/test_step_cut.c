/* A batch cut into other micro-batches, or over other ranks: the same step but for rounding. */
#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/tiny_train.h"

/* The routers' losses beside the others; balance, a product of means, keeps its micro-batch. */
Test(step, cutting_the_batch_changes_nothing_but_rounding)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    tiny_batch batch = tiny_batch_create(3);
    const int cuts[] = {1, 2, 4};
    kd_step_result results[3];
    float *weights[3];
    int64_t n = 0;

    settings.objective.z_weight.value = 0.1;
    for (int i = 0; i < 2 * TINY_TOKENS - 1; i++) { /* one quarter has none, another hardly any */
        batch.labels[i] = -100;
    }
    for (int i = 0; i < 3; i++) {
        kd_batch batches[TINY_BATCH];
        tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
        tiny_batch_cut(&batch, cuts[i], batches);
        for (uint64_t step = 0; step < 3; step++) {
            cr_assert_eq(tiny_train_step(t, step, batches, cuts[i], &results[i]), KD_OK);
        }
        weights[i] = tiny_train_weights(t);
        n = kd_trainer_parameters(t->trainer)->n_elements;
        tiny_train_destroy(t);
    }
    for (int i = 1; i < 3; i++) {
        cr_expect_float_eq(results[i].loss, results[0].loss, 1e-5 * results[0].loss);
        cr_expect_float_eq(results[i].gradient_norm, results[0].gradient_norm, 1e-4);
        cr_expect_eq(results[i].n_tokens, results[0].n_tokens);
        cr_expect_lt(tiny_nmse(weights[i], weights[0], n), 1e-9);
        free(weights[i]);
    }
    free(weights[0]);
}

/* The other rank of two, whose sums were taken before. */
typedef struct other_rank {
    float *grad;
    double sums[16];
    int64_t counts[6]; /* of both: rows of each loss, batches without labels and with */
    int64_t said[6];   /* what the ranks counted, each by itself                      */
    bool records;
} other_rank;

static kd_status meet_f32(void *user, float *values, int64_t n)
{
    other_rank *other = user;
    if (other->records) {
        other->grad = malloc((size_t)n * sizeof *values);
        memcpy(other->grad, values, (size_t)n * sizeof *values);
        return KD_OK;
    }
    for (int64_t i = 0; i < n; i++) {
        values[i] += other->grad[i];
    }
    return KD_OK;
}

static kd_status meet_f64(void *user, double *values, int64_t n)
{
    other_rank *other = user;
    cr_assert_leq(n, 16);
    for (int64_t i = 0; i < n; i++) {
        if (other->records) {
            other->sums[i] = values[i];
        } else {
            values[i] += other->sums[i];
        }
    }
    return KD_OK;
}

/* The counts of both are needed before either can form a gradient, so they are known beforehand. */
static kd_status meet_i64(void *user, int64_t *values, int64_t n)
{
    other_rank *other = user;
    cr_assert_eq(n, 6);
    for (int64_t i = 0; i < n; i++) {
        other->said[i] += values[i];
    }
    memcpy(values, other->counts, (size_t)n * sizeof *values);
    return KD_OK;
}

static kd_status
step_of_two(tiny_train *t, const kd_batch *batch, other_rank *other, kd_step_result *result_out)
{
    const kd_reduce reduce = {.user = other,
                              .rank = 0,
                              .n_ranks = 2,
                              .sum_f32 = meet_f32,
                              .sum_f64 = meet_f64,
                              .sum_i64 = meet_i64};
    const kd_step_work work = tiny_train_open(t, 0, batch, 1);
    return kd_trainer_step(t->trainer, &work, &t->channel, &reduce, result_out);
}

Test(step, two_ranks_give_what_one_gives)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_batch halves[2];
    const int64_t n_labelled = TINY_ROWS - 2;
    other_rank other = {
        .records = true,
        .counts = {n_labelled, n_labelled, TINY_ROWS, TINY_ROWS, 0, 2},
    };
    kd_step_result alone, together;
    tiny_train *one = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *first = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);
    tiny_train *second = tiny_train_create(&kd_model_mixtral, KD_F32, &settings);

    tiny_batch_cut(&batch, 2, halves);
    cr_assert_eq(tiny_train_step(one, 0, &whole, 1, &alone), KD_OK);
    cr_assert_eq(step_of_two(second, &halves[1], &other, &together), KD_OK);
    other.records = false;
    cr_assert_eq(step_of_two(first, &halves[0], &other, &together), KD_OK);
    cr_expect_float_eq(together.loss, alone.loss, 1e-5 * alone.loss);
    cr_expect_float_eq(together.gradient_norm, alone.gradient_norm, 1e-4 * alone.gradient_norm);
    cr_expect_eq(together.n_tokens, alone.n_tokens);
    cr_expect_arr_eq(other.said, other.counts, sizeof other.counts);
    float *a = tiny_train_weights(one), *b = tiny_train_weights(first);
    cr_expect_lt(tiny_nmse(b, a, kd_trainer_parameters(one->trainer)->n_elements), 1e-9);
    free(a);
    free(b);
    free(other.grad);
    tiny_train_destroy(one);
    tiny_train_destroy(first);
    tiny_train_destroy(second);
}

/* Each rank's batches are of one kind, but not of the same. */
Test(step, ranks_with_and_without_labels_all_end_in_the_same_fault)
{
    const tiny_batch batch = tiny_batch_create(3);
    other_rank other = {.counts = {TINY_ROWS, TINY_ROWS, TINY_ROWS, TINY_ROWS, 1, 1}};
    for (int rank = 0; rank < 2; rank++) {
        tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
        kd_batch whole = tiny_batch_whole(&batch);
        kd_step_result result;
        whole.labels = rank == 0 ? NULL : whole.labels;
        kd_fault_quiet(1);
        cr_expect_eq(step_of_two(t, &whole, &other, &result), KD_ERR_INVALID);
        kd_fault_quiet(0);
        EXPECT_FAULT("step 1: found micro-batches with and without labels");
        tiny_train_destroy(t);
    }
    cr_expect(other.said[4] == 1 && other.said[5] == 1, "each rank had a kind of its own");
}
