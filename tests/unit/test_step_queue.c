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
    late_queue teachers;
    kd_step_result r;
    init(&f);
    late_queue_take(&teachers, f.t->teacher_be);
    teachers.n_late = f.queue.n_late = 1000;
    cr_assert_eq(tiny_train_step(f.t, 0, f.parts, N_PARTS, &r), KD_OK);
    late_queue_give_back(&teachers);
    cr_expect(r.updated);
    cr_expect(r.losses[0].computed);
    cr_expect_eq(teachers.n_stops, 0, "%d", teachers.n_stops);
    cr_expect_gt(r.gradient_norm, 0.0);
    cr_expect_gt(f.queue.n_updates, 0, "%d", f.queue.n_updates);
    cr_expect_eq(f.queue.n_stops_before_update, 0, "%d", f.queue.n_stops_before_update);
    cr_expect_eq(f.queue.n_waits, 1, "%d", f.queue.n_waits);
    release(&f);
}

/* A channel that only notes what it is given back, in front of the true one. */
typedef struct watched_channel {
    kd_channel base; /* first */
    kd_channel *behind;
    kd_backend *be;
    int n_released;
} watched_channel;

static kd_status watched_receive(kd_channel *channel, uint64_t m, void **message_out)
{
    watched_channel *w = (watched_channel *)channel;
    return w->behind->ops->receive(w->behind, m, message_out);
}

static void watched_progress(kd_channel *channel)
{
    watched_channel *w = (watched_channel *)channel;
    w->behind->ops->progress(w->behind);
}

static int n_backward; /* calls of the last operation of a backward pass */

static void embed_backward_counted(kd_backend *be,
                                   kd_tensor dtable,
                                   kd_tensor dy,
                                   kd_tensor ids,
                                   bool accumulate)
{
    n_backward++;
    ((late_queue *)(uintptr_t)be->ops)->ops->embed_backward(be, dtable, dy, ids, accumulate);
}

static kd_status watched_release(kd_channel *channel, uint64_t m, kd_event done)
{
    watched_channel *w = (watched_channel *)channel;
    ((late_queue *)(uintptr_t)w->be->ops)->n_late = 1000; /* who wrote the last one has waited */
    w->n_released++;
    cr_expect_eq(done.be, w->be);
    cr_expect_eq(done.number, w->n_released);
    cr_expect_not(kd_event_is_past(done));
    cr_expect_eq(n_backward, w->n_released);
    return w->behind->ops->release(w->behind, m, done);
}

Test(step_queue, a_message_is_given_back_with_an_event_behind_the_backward_pass)
{
    static const kd_channel_ops ops = {
        .receive = watched_receive, .release = watched_release, .progress = watched_progress};
    fixture f;
    kd_step_result r;
    init(&f);
    f.queue.n_late = 1000;
    f.queue.table.embed_backward = embed_backward_counted;
    const kd_step_work work = tiny_train_open(f.t, 0, f.parts, N_PARTS);
    watched_channel watched = {.base.ops = &ops, .behind = f.t->channel, .be = f.t->be};
    kd_channel *channels[] = {&watched.base};
    const kd_reduce alone = kd_reduce_single();
    cr_assert_eq(kd_trainer_step(f.t->trainer, &work, channels, &alone, &r), KD_OK);
    cr_expect_eq(watched.n_released, N_PARTS);
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
    ((late_queue *)(uintptr_t)be->ops)->ops->vocab_loss(be, loss); /* the gradient is a true one */
    ((double *)loss->sums.data)[KD_VOCAB_SUM_HARD] = (double)NAN;
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
    cr_expect_eq(o->n_updates, 0);
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
    expect_untouched(&f, "step 42: the gradient's norm is infinite in group ");
    release(&f);
}

Test(step_queue, a_loss_that_is_not_finite_beside_a_finite_gradient_changes_nothing)
{
    fixture f;
    init(&f);
    f.queue.table.vocab_loss = spoil_loss;
    expect_untouched(&f, "step 42: loss hard is not a number, expected");
    release(&f);
}
