/* Transfers, on the back end under test: what they copy, what they wait for and who waits for them. */
#include <criterion/criterion.h>

#include <string.h>

#include "tests/support/back_end.h"

enum { N = 1000, RING = 70 };

static const kd_event past = {0};

typedef struct fixture {
    kd_backend *be;
    kd_tensor a, b;       /* (N) f32, device memory */
    float *host, *result; /* (N), host memory       */
} fixture;

static void *take(kd_backend *be, kd_memory kind, size_t size_bytes)
{
    void *memory = be->ops->alloc(be, kind, size_bytes);
    cr_assert_not_null(memory);
    return memory;
}

static fixture create(void)
{
    fixture f = {.be = kd_test_backend(KD_F32, 1)};
    f.a = kd_tensor_1d(take(f.be, KD_MEMORY_DEVICE, N * sizeof(float)), KD_F32, N);
    f.b = kd_tensor_1d(take(f.be, KD_MEMORY_DEVICE, N * sizeof(float)), KD_F32, N);
    f.host = take(f.be, KD_MEMORY_HOST, N * sizeof(float));
    f.result = take(f.be, KD_MEMORY_HOST, N * sizeof(float));
    for (int i = 0; i < N; i++) {
        f.host[i] = (float)(i + 1);
    }
    return f;
}

static void destroy(fixture *f)
{
    const kd_ops *ops = f->be->ops;
    ops->free(f->be, f->a.data);
    ops->free(f->be, f->b.data);
    ops->free(f->be, f->host);
    ops->free(f->be, f->result);
    kd_backend_destroy(f->be);
}

/* All of t, which operations that were queued have written. */
static void expect_values(const fixture *f, kd_tensor t, float factor)
{
    float values[N];
    f->be->ops->download(f->be, values, t);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(values[i], factor * (float)(i + 1), "element %d is %g", i, (double)values[i]);
    }
}

/* Doubles t, several times over: work that is not done at once. */
static void make_work(const fixture *f, kd_tensor t, int n_doublings)
{
    for (int i = 0; i < n_doublings; i++) {
        f->be->ops->add(f->be, t, t);
    }
}

Test(ops_transfer, operations_that_wait_for_it_see_what_it_wrote)
{
    fixture f = create();
    const kd_event up = f.be->ops->transfer(f.be, f.a.data, f.host, N * sizeof(float), past);
    f.be->ops->event_wait(f.be, up);
    f.be->ops->copy(f.be, f.b, f.a);
    expect_values(&f, f.b, 1.0f);
    destroy(&f);
}

Test(ops_transfer, it_reads_what_was_queued_before_the_event_that_it_waits_for)
{
    fixture f = create();
    f.be->ops->upload(f.be, f.a, f.host);
    make_work(&f, f.a, 3);
    const kd_event ready = f.be->ops->event_record(f.be);
    const kd_event down = f.be->ops->transfer(f.be, f.result, f.a.data, N * sizeof(float), ready);
    cr_expect_eq(down.queue, KD_QUEUE_TRANSFERS);
    kd_event_sync(down);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(f.result[i], 8.0f * (float)(i + 1), "element %d", i);
    }
    destroy(&f);
}

/* Down from one tensor and up into another through the same memory, with no event between. */
Test(ops_transfer, transfers_run_in_their_own_order)
{
    fixture f = create();
    f.be->ops->upload(f.be, f.a, f.host);
    const kd_event ready = f.be->ops->event_record(f.be);
    (void)f.be->ops->transfer(f.be, f.result, f.a.data, N * sizeof(float), ready);
    const kd_event down = f.be->ops->transfer(f.be, f.b.data, f.result, N * sizeof(float), past);
    const kd_event up = f.be->ops->transfer(f.be, f.result, f.host, sizeof(float), down);
    f.be->ops->event_wait(f.be, up);
    expect_values(&f, f.b, 1.0f);
    destroy(&f);
}

/* However far the other queue is, and wherever the ring of events stands. */
Test(ops_transfer, events_of_the_two_queues_are_not_taken_for_each_other)
{
    fixture f = create();
    kd_event first = past;
    for (int i = 0; i < 2 * RING; i++) {
        kd_event_sync(f.be->ops->event_record(f.be));
    }
    f.be->ops->upload(f.be, f.a, f.host);
    for (int i = 0; i < RING; i++) { /* each is behind operations that are not done */
        make_work(&f, f.a, i == 0 ? 3 : 0);
        const kd_event down = f.be->ops->transfer(f.be, f.result + i, (float *)f.a.data + i,
                                                  sizeof(float), f.be->ops->event_record(f.be));
        first = i == 0 ? down : first;
        kd_event_sync(i == 5 ? down : past);
        cr_expect(i < 5 || f.result[5] == 8.0f * 6.0f, "%g", (double)f.result[5]);
    }
    kd_event_sync(first);
    cr_expect_eq(f.result[0], 8.0f);
    destroy(&f);
}

Test(ops_transfer, waiting_for_the_back_end_waits_for_transfers)
{
    fixture f = create();
    f.be->ops->upload(f.be, f.a, f.host);
    make_work(&f, f.a, 2);
    const kd_event ready = f.be->ops->event_record(f.be);
    const kd_event down = f.be->ops->transfer(f.be, f.result, f.a.data, N * sizeof(float), ready);
    cr_assert_eq(kd_backend_wait(f.be), KD_OK);
    cr_expect_eq(f.result[N - 1], 4.0f * N);
    cr_expect(kd_event_is_past(down));
    destroy(&f);
}

Test(ops_transfer, another_back_end_waits_for_it_and_it_for_another)
{
    fixture f = create(), g = create();
    f.be->ops->upload(f.be, f.a, f.host);
    make_work(&f, f.a, 3);
    const kd_event down = g.be->ops->transfer(g.be, g.result, f.a.data, N * sizeof(float),
                                              f.be->ops->event_record(f.be));
    f.be->ops->event_wait(f.be, down);
    const kd_tensor result = kd_tensor_1d(g.result, KD_F32, N);
    f.be->ops->copy(f.be, f.b, result);
    expect_values(&f, f.b, 8.0f);
    destroy(&f);
    destroy(&g);
}

Test(ops_transfer, a_fault_before_it_leaves_its_target_as_it_was)
{
    fixture f = create(), g = create();
    f.be->ops->upload(f.be, f.a, f.host);
    const kd_event ready = f.be->ops->event_record(f.be);
    cr_assert_eq(kd_backend_wait(f.be), KD_OK);
    kd_fault_quiet(1);
    kd_backend_keep_fault(f.be, kd_fail(KD_ERR_NOMEM, "no memory here"));
    kd_fault_recall("something else");
    const kd_event down = g.be->ops->transfer(g.be, g.result, g.host, N * sizeof(float), ready);
    kd_event_sync(down); /* nobody waits for ever */
    cr_expect_eq(kd_backend_wait(g.be), KD_ERR_NOMEM);
    cr_expect(strcmp(kd_fault_text(), "no memory here") == 0, "%s", kd_fault_text());
    cr_expect_eq(g.result[0], 0.0f);
    destroy(&f);
    destroy(&g);
}
