/* Time by part of a step: what is told, of which parts, and that nobody waits for it. */
#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "tests/support/back_end.h"
#include "tests/support/late_queue.h"
#include "tests/support/tiny_train.h"

enum { N_MICRO = 3 };

static void expect_parts(const kd_step_result *r, const char *expected, const char *what)
{
    char found[256] = "";
    for (int part = 0; part < KD_STEP_PARTS; part++) {
        const double s = r->times.seconds[part];
        if (!isnan(s)) {
            cr_expect(s >= 0.0 && s < 600.0, "%s: %s %g s", what,
                      kd_step_part_name((kd_step_part)part), s);
            strcat(found, " ");
            strcat(found, kd_step_part_name((kd_step_part)part));
        }
    }
    cr_expect_str_eq(found, expected, "%s:%s", what, found);
}

/* Two ranks of which the other has nothing. */
static kd_status as_is_f32(void *user, float *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

static kd_status as_is_f64(void *user, double *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

static kd_status as_is_i64(void *user, int64_t *values, int64_t n)
{
    (void)user;
    (void)values;
    (void)n;
    return KD_OK;
}

static kd_step_result step(tiny_train *t, kd_channel *const *channels, int n_ranks)
{
    const kd_reduce reduce = {
        .n_ranks = n_ranks, .sum_f32 = as_is_f32, .sum_f64 = as_is_f64, .sum_i64 = as_is_i64};
    const kd_batch parts[N_MICRO] = {t->whole, t->whole, t->whole};
    const kd_step_work work = tiny_train_open(t, 0, parts, N_MICRO);
    kd_step_result r;
    cr_assert_eq(kd_trainer_step(t->trainer, &work, channels, &reduce, &r), KD_OK);
    return r;
}

Test(step_time, each_part_that_took_place_is_told_and_no_other)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    kd_step_result r = step(t, &t->channel, 1);
    expect_parts(&r, " count forward teacher loss backward update", "a teacher beside the student");
    r = step(t, NULL, 1);
    expect_parts(&r, " count forward loss backward update", "no teacher");
    r = step(t, NULL, 2);
    expect_parts(&r, " count forward loss backward reduce update", "two ranks");
    t->channel->is_local = false; /* as if the messages came from elsewhere */
    r = step(t, &t->channel, 2);
    expect_parts(&r, " count forward signals loss backward reduce update", "a teacher elsewhere");
    tiny_train_destroy(t);
}

/* The seconds of a part are those of all its micro-batches. */
Test(step_time, a_part_is_the_sum_over_its_marks)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_step_clock clock = kd_step_clock_of(be);
    kd_step_times times;
    double whole_s = 0.0, sum_s = 0.0;
    kd_step_clock_begin(&clock, 5);
    kd_step_clock_close(&clock, KD_STEP_FORWARD);
    kd_step_clock_close(&clock, KD_STEP_BACKWARD);
    kd_step_clock_close(&clock, KD_STEP_FORWARD);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_assert(be->ops->marks_elapsed(be, clock.marks, 0, 3, &whole_s));
    cr_assert(kd_step_clock_read(&clock, &times));
    sum_s = times.seconds[KD_STEP_FORWARD] + times.seconds[KD_STEP_BACKWARD];
    cr_expect_float_eq(sum_s, whole_s, 1e-6, "%g of %g", sum_s, whole_s);
    cr_expect_not(kd_step_clock_read(&clock, &times), "told once");
    kd_step_clock_release(&clock);
    kd_backend_destroy(be);
}

static void close_two(kd_step_clock *clock)
{
    kd_step_clock_begin(clock, 2);
    kd_step_clock_close(clock, KD_STEP_TEACHER);
    kd_step_clock_close(clock, KD_STEP_SIGNALS);
}

Test(step_time, a_step_that_the_queue_has_not_come_to_is_told_later_and_whole)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    late_queue queue;
    kd_step_clock clock = kd_step_clock_of(be);
    kd_step_times times = kd_step_times_none();
    late_queue_take(&queue, be);
    close_two(&clock);
    cr_expect_not(kd_step_clock_read(&clock, &times));
    close_two(&clock); /* the first is still to be told */
    cr_expect_eq(queue.n_marked, 3, "%d", queue.n_marked);
    cr_expect_not(kd_step_clock_read(&clock, &times));
    cr_expect_eq(queue.n_stops, 0, "%d", queue.n_stops);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect(kd_step_clock_read(&clock, &times));
    cr_expect(times.seconds[KD_STEP_TEACHER] >= 0.0 && times.seconds[KD_STEP_SIGNALS] >= 0.0);
    close_two(&clock);
    cr_expect_eq(queue.n_marked, 6, "%d", queue.n_marked);
    late_queue_give_back(&queue);
    kd_step_clock_release(&clock);
    kd_backend_destroy(be);
}

/* One for the scalars that it reports, as without times. */
Test(step_time, a_step_waits_no_more_than_without_times)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    late_queue queue;
    late_queue_take(&queue, t->be);
    const kd_step_result r = step(t, &t->channel, 1);
    cr_expect_eq(queue.n_waits, 1, "%d", queue.n_waits);
    cr_expect_eq(queue.n_stops, 3, "%d: one wait, two downloads", queue.n_stops);
    expect_parts(&r, " count forward teacher loss backward update", "late");
    late_queue_give_back(&queue);
    tiny_train_destroy(t);
}

static kd_status no_batch(void *user, uint64_t m, kd_batch *batch_out)
{
    (void)user;
    (void)m;
    (void)batch_out;
    return KD_ERR_IO;
}

Test(step_time, a_step_that_failed_leaves_nothing_to_the_next)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const kd_reduce alone = kd_reduce_single();
    const kd_source broken = {.next = no_batch};
    const kd_step_work work = {.source = &broken, .stride = 1, .n_batches = 1};
    kd_step_result r;
    cr_expect_eq(kd_trainer_step(t->trainer, &work, NULL, &alone, &r), KD_ERR_IO);
    r = step(t, &t->channel, 1);
    expect_parts(&r, " count forward teacher loss backward update", "after a failure");
    tiny_train_destroy(t);
}
