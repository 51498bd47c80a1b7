/* Operations of a region are one launch of a graph, and do what they do without. */
#include <criterion/criterion.h>

#include "tensor/cuda/kernels.h"
#include "tests/support/ops_check.h"

enum { ROWS = 9, COLUMNS = 24 };

typedef struct fixture {
    kd_backend *be;
    kd_tensor x, y, sum, bias;
    int region;
} fixture;

static fixture make(const char *kernels, int64_t rows)
{
    kd_test_use_kernels(kernels);
    fixture f = {
        .be = kd_test_backend(KD_F32, 1),
        .x = kd_test_random(KD_F32, rows, COLUMNS, 1),
        .y = kd_test_zeros(KD_F32, rows, COLUMNS),
        .sum = kd_test_zeros(KD_F32, 1, COLUMNS),
        .bias = kd_test_random(KD_F32, 1, COLUMNS, 2),
    };
    f.region = kd_regions(f.be, 2);
    kd_test_use_kernels(NULL);
    return f;
}

static void release(fixture *f)
{
    kd_test_free(f->x);
    kd_test_free(f->y);
    kd_test_free(f->sum);
    kd_test_free(f->bias);
    kd_backend_destroy(f->be);
}

static int64_t n_graphs(const fixture *f)
{
    return kd_cuda_runs(f->be, KD_CUDA_KERNEL_GRAPHS);
}

/* y = 2 (x + bias), in place of whatever was there; sum = the column sums of y, with scratch for many rows. */
static void queue(fixture *f, kd_tensor y)
{
    const kd_ops *ops = f->be->ops;
    const kd_tensor bias = kd_tensor_1d(f->bias.data, KD_F32, COLUMNS),
                    sum = kd_tensor_1d(f->sum.data, KD_F32, COLUMNS);
    ops->copy(f->be, y, f->x);
    ops->bias(f->be, y, bias);
    ops->add(f->be, y, y);
    ops->bias_backward(f->be, sum, y, false);
}

static void queue_region(fixture *f, kd_tensor y)
{
    f->be->ops->region_begin(f->be, f->region);
    queue(f, y);
    f->be->ops->region_end(f->be);
}

static void expect_result(fixture *f, kd_tensor y)
{
    fixture plain = make("plain", kd_tensor_rows(f->x));
    plain.be->ops->copy(plain.be, plain.x, f->x);
    queue(&plain, plain.y);
    cr_expect_eq(kd_test_nmse(y, plain.y), 0.0);
    cr_expect_eq(kd_test_nmse(f->sum, plain.sum), 0.0);
    release(&plain);
}

Test(ops_cuda_regions, are_launched_as_one_from_the_second_time_on)
{
    fixture f = make("fast", ROWS);
    const kd_tensor other = kd_test_zeros(KD_F32, ROWS, COLUMNS);
    for (int turn = 0; turn < 4; turn++) {
        const kd_tensor y = turn % 2 == 0 ? f.y : other; /* arguments are this time's */
        kd_test_set(f.x, 2, 3, 10.0 * turn);
        queue_region(&f, y);
        expect_result(&f, y);
        cr_expect_eq(n_graphs(&f), turn);
    }
    kd_test_free(other);
    release(&f);
}

Test(ops_cuda_regions, are_none_where_only_plain_kernels_run)
{
    fixture f = make("plain", ROWS);
    for (int turn = 0; turn < 3; turn++) {
        queue_region(&f, f.y);
    }
    expect_result(&f, f.y);
    cr_expect_eq(n_graphs(&f), 0);
    release(&f);
}

/* One operation more is another graph. */
Test(ops_cuda_regions, of_another_form_are_made_anew)
{
    fixture f = make("fast", ROWS);
    for (int turn = 0; turn < 5; turn++) {
        f.be->ops->region_begin(f.be, f.region);
        if (turn % 2 == 1) {
            f.be->ops->zero(f.be, f.y);
        }
        queue(&f, f.y);
        f.be->ops->region_end(f.be);
        expect_result(&f, f.y);
    }
    cr_expect_eq(n_graphs(&f), 4);
    release(&f);
}

Test(ops_cuda_regions, end_early_where_something_waits_or_has_events)
{
    fixture f = make("fast", ROWS), other = make("plain", ROWS);
    float host[ROWS * COLUMNS];
    for (int turn = 0; turn < 3; turn++) {
        const kd_ops *ops = f.be->ops;
        kd_test_set(f.x, 2, 3, 10.0 * turn);
        ops->region_begin(f.be, f.region);
        queue(&f, f.y);
        const kd_event formed = ops->event_record(f.be);
        other.be->ops->event_wait(other.be, formed);
        other.be->ops->copy(other.be, other.y, f.y);
        ops->download(f.be, host, f.y);
        const kd_event read = other.be->ops->event_record(other.be);
        ops->event_wait(f.be, read);
        ops->zero(f.be, f.y);
        ops->upload(f.be, f.y, host);
        ops->region_end(f.be);
        expect_result(&f, f.y);
        cr_expect_eq(kd_test_nmse(other.y, f.y), 0.0);
        cr_expect_eq(n_graphs(&f), turn);
    }
    cr_expect_eq(kd_backend_wait(f.be), KD_OK);
    release(&other);
    release(&f);
}

/* The second time there are more rows, whose sums take more scratch memory: what was there is given back. */
Test(ops_cuda_regions, end_early_where_scratch_memory_grows)
{
    fixture some = make("fast", 200), many = make("plain", 700);
    const kd_tensor x = some.x;
    queue_region(&some, some.y);
    some.x = many.x;
    for (int turn = 0; turn < 2; turn++) {
        queue_region(&some, many.y);
        expect_result(&some, many.y);
    }
    cr_expect_eq(n_graphs(&some), 2);
    cr_expect_eq(kd_backend_wait(some.be), KD_OK);
    some.x = x;
    release(&many);
    release(&some);
}

Test(ops_cuda_regions, with_a_fault_do_nothing_and_keep_it)
{
    fixture f = make("fast", ROWS);
    queue_region(&f, f.y);
    (void)kd_test_get(f.y, 0, 0); /* it has run */
    kd_test_set(f.y, 2, 3, -77.0);
    f.be->ops->region_begin(f.be, f.region);
    queue(&f, f.y);
    kd_backend_keep_fault(f.be, kd_fail(KD_ERR_IO, "planted"));
    f.be->ops->region_end(f.be);
    cr_expect_eq(kd_backend_wait(f.be), KD_ERR_IO);
    cr_expect_eq(kd_test_get(f.y, 2, 3), -77.0);
    cr_expect_eq(n_graphs(&f), 0);
    release(&f);
}

Test(ops_cuda_regions, with_numbers_beyond_the_table_run_as_they_come)
{
    fixture f = make("fast", ROWS);
    f.region = kd_regions(f.be, 1 << 20) + (1 << 19);
    for (int turn = 0; turn < 3; turn++) {
        queue_region(&f, f.y);
    }
    expect_result(&f, f.y);
    cr_expect_eq(n_graphs(&f), 0);
    release(&f);
}
