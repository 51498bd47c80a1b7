#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "daemon/scheduler.h"

#define N_ITEMS 8

static scheduler s;
static scheduler_item items[N_ITEMS + 1]; /* items[id], one slot each unless said otherwise */

static void set_up(void)
{
    scheduler_init(&s, 4);
    for (uint64_t id = 1; id <= N_ITEMS; id++) {
        scheduler_item_init(&items[id], id, 1);
    }
}

static void tear_down(void)
{
    for (uint64_t id = 1; id <= N_ITEMS; id++) {
        scheduler_item_release(&items[id]);
    }
    scheduler_release(&s);
}

TestSuite(scheduler, .init = set_up, .fini = tear_down);

static void add(uint64_t id)
{
    cr_assert(eq(int, scheduler_add(&s, &items[id]), KD_OK));
}

/* The id of the next job to start, 0 if none does. */
static uint64_t next(void)
{
    const scheduler_item *item = scheduler_next(&s);
    return item == NULL ? 0 : item->id;
}

Test(scheduler, jobs_start_in_the_order_of_their_submission)
{
    const uint64_t added[] = {5, 2, 8, 1, 3};
    for (int i = 0; i < 5; i++) {
        add(added[i]);
    }
    const uint64_t expected[] = {1, 2, 3, 5, 0};
    for (int i = 0; i < 5; i++) {
        cr_expect(eq(u64, next(), expected[i]));
    }
}

Test(scheduler, a_large_job_gets_all_its_slots_or_none)
{
    items[2].slots = 4;
    add(1);
    add(2);
    cr_expect(eq(u64, next(), 1));
    cr_expect(eq(u64, next(), 0));
    scheduler_remove(&s, &items[1]);
    cr_expect(eq(u64, next(), 2));
}

Test(scheduler, nobody_overtakes_a_job_that_does_not_fit)
{
    items[2].slots = 4;
    add(1);
    add(2);
    add(3);
    cr_expect(eq(u64, next(), 1));
    cr_expect(eq(u64, next(), 0));
}

Test(scheduler, a_job_that_comes_back_keeps_its_place)
{
    items[1].slots = 4;
    add(1);
    add(2);
    cr_expect(eq(u64, next(), 1));
    scheduler_remove(&s, &items[1]); /* lost: waits out its backoff */
    cr_expect(eq(u64, next(), 2));
    scheduler_remove(&s, &items[2]);
    add(3);
    add(1);
    cr_expect(eq(u64, next(), 1));
}

Test(scheduler, a_cancelled_job_leaves_the_heap_in_order)
{
    for (uint64_t id = 1; id <= N_ITEMS; id++) {
        add(id);
    }
    scheduler_retire(&s, &items[1]);
    scheduler_retire(&s, &items[4]);
    const uint64_t expected[] = {2, 3, 5, 6};
    for (int i = 0; i < 4; i++) {
        cr_expect(eq(u64, next(), expected[i]));
    }
}

Test(scheduler, a_retired_job_is_never_ready_again)
{
    scheduler_retire(&s, &items[1]);
    add(1);
    cr_expect(eq(u64, next(), 0));
}

Test(scheduler, a_job_starts_after_all_it_comes_after_succeeded)
{
    cr_assert(eq(int, scheduler_follow(&items[3], &items[1]), KD_OK));
    cr_assert(eq(int, scheduler_follow(&items[3], &items[2]), KD_OK));
    add(3);
    cr_expect(eq(u64, next(), 0));
    cr_assert(eq(int, scheduler_succeeded(&s, &items[1]), KD_OK));
    cr_expect(eq(u64, next(), 0));
    cr_assert(eq(int, scheduler_succeeded(&s, &items[2]), KD_OK));
    cr_expect(eq(u64, next(), 3));
}

Test(scheduler, a_job_cancelled_while_it_waited_is_not_started_by_the_one_before_it)
{
    cr_assert(eq(int, scheduler_follow(&items[2], &items[1]), KD_OK));
    scheduler_retire(&s, &items[2]);
    cr_assert(eq(int, scheduler_succeeded(&s, &items[1]), KD_OK));
    cr_expect(eq(u64, next(), 0));
}

Test(scheduler, a_job_that_can_never_fit_blocks_nobody)
{
    items[1].slots = 5;
    add(1);
    add(2);
    cr_expect(eq(u64, next(), 2));
    cr_expect(eq(u64, next(), 0));
}

/* A daemon that comes back with fewer slots finds more running than fits. */
Test(scheduler, adopted_jobs_may_hold_more_than_there_is)
{
    items[1].slots = 4;
    items[2].slots = 3;
    scheduler_adopt(&s, &items[1]);
    scheduler_adopt(&s, &items[2]);
    add(3);
    cr_expect(eq(u64, next(), 0));
    scheduler_remove(&s, &items[2]);
    cr_expect(eq(u64, next(), 0));
    scheduler_remove(&s, &items[1]);
    cr_expect(eq(u64, next(), 3));
    cr_expect(eq(u64, s.n_held, 1));
}

Test(scheduler, ten_thousand_jobs_come_out_sorted)
{
    enum { N = 10000 };

    static scheduler_item many[N];
    scheduler_release(&s);
    scheduler_init(&s, N);
    for (uint64_t i = 0; i < N; i++) {
        scheduler_item_init(&many[i], 1 + i * 7919 % N, 1);
        cr_assert(eq(int, scheduler_add(&s, &many[i]), KD_OK));
    }
    for (uint64_t expected = 1; expected <= N; expected++) {
        cr_assert(eq(u64, next(), expected));
    }
}
