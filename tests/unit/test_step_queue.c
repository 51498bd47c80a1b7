/* How a step uses the back end's queue: when the host waits for it, and what that keeps out. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>

#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/tiny_train.h"

enum { N_PARTS = 3 };

typedef struct fixture {
    tiny_settings settings;
    tiny_train *t;
    tiny_batch batch;
    kd_batch parts[N_PARTS]; /* micro-batches of a step */
    late_queue queue;        /* the student's           */
} fixture;

static void init(fixture *f)
{
    tiny_settings_init(&f->settings);
    f->t = tiny_train_create(&kd_model_mixtral, KD_F32, &f->settings);
    f->batch = tiny_batch_create(3);
    for (int i = 0; i < N_PARTS; i++) {
        f->parts[i] = tiny_batch_whole(&f->batch);
    }
    late_queue_take(&f->queue, f->t->be);
}

static void release(fixture *f)
{
    late_queue_give_back(&f->queue);
    tiny_train_destroy(f->t);
}

Test(step_queue, the_host_waits_for_nothing_before_the_update_is_queued)
{
    fixture f;
    kd_step_result r;
    init(&f);
    kd_channel *channel = f.t->channel;
    f.t->channel = NULL;
    cr_assert_eq(tiny_train_step(f.t, 0, f.parts, N_PARTS, &r), KD_OK);
    f.t->channel = channel;
    cr_expect(r.updated);
    cr_expect_gt(r.gradient_norm, 0.0);
    cr_expect_eq(f.queue.n_stops_before_update, 0, "%d", f.queue.n_stops_before_update);
    cr_expect_eq(f.queue.n_waits, 1, "%d", f.queue.n_waits);
    release(&f);
}

static void spoil_norm(kd_backend *be, kd_tensor sum, kd_tensor x)
{
    (void)be;
    (void)x;
    *(double *)sum.data = (double)INFINITY;
}

static void spoil_loss(kd_backend *be, const kd_vocab_loss *loss)
{
    ((double *)loss->sums.data)[KD_VOCAB_SUM_HARD] = (double)NAN;
    (void)be;
}

/* The update is queued before the host can know; weights and moments must stay all the same. */
static void expect_untouched(fixture *f, const char *words)
{
    kd_optimizer *o = kd_trainer_optimizer(f->t->trainer);
    const size_t bytes = (size_t)kd_trainer_parameters(f->t->trainer)->n_elements * sizeof(float);
    kd_step_result r = {.loss = -7.0};
    float *before = tiny_train_weights(f->t), *m = tiny_values(f->t->be, o->moments[0].m);
    kd_fault_quiet(1);
    cr_expect_eq(tiny_train_step(f->t, 41, f->parts, 1, &r), KD_ERR_INVALID);
    EXPECT_FAULT(words);
    cr_expect_eq(r.loss, -7.0);
    cr_expect_gt(f->queue.n_updates, 0);
    float *after = tiny_train_weights(f->t), *m_after = tiny_values(f->t->be, o->moments[0].m);
    cr_expect_arr_eq(before, after, bytes);
    cr_expect_arr_eq(m, m_after, bytes);
    free(before);
    free(after);
    free(m);
    free(m_after);
}

Test(step_queue, a_norm_that_is_not_finite_changes_nothing)
{
    fixture f;
    init(&f);
    f.queue.table.sum_squares = spoil_norm;
    expect_untouched(&f, "step 41: the gradient's norm is infinite in group ");
    release(&f);
}

Test(step_queue, a_loss_that_is_not_finite_beside_a_finite_gradient_changes_nothing)
{
    fixture f;
    init(&f);
    f.queue.table.vocab_loss = spoil_loss;
    expect_untouched(&f, "step 41: loss hard is not a number, expected");
    release(&f);
}
