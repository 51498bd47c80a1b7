/* Sums over ranks of what lies in a device's memory, on the back end under test. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "tests/support/back_end.h"
#include "tests/support/fault.h"
#include "train/reduce_staged.h"

enum { PIECES_MAX = 8 };

/* The other ranks: each piece gets its own number on top, so that none is summed twice or in another's place. */
typedef struct others {
    int64_t n[PIECES_MAX];
    int n_calls;
    int fails_at;
} others;

static kd_status add_number(void *user, float *values, int64_t n)
{
    others *o = user;
    cr_assert_lt(o->n_calls, PIECES_MAX);
    o->n[o->n_calls++] = n;
    for (int64_t i = 0; i < n; i++) {
        values[i] += (float)o->n_calls;
    }
    return o->n_calls == o->fails_at ? kd_fail(KD_ERR_IO, "no such rank") : KD_OK;
}

typedef struct fixture {
    kd_reduce_stage stage;
    kd_tensor values; /* (n) f32, of the device */
    float *host;      /* (n)                    */
    others others;
    kd_reduce reduce;
} fixture;

static void create(fixture *f, int64_t n)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    void *memory = be->ops->alloc(be, KD_MEMORY_DEVICE, (size_t)n * sizeof(float));
    *f = (fixture){.stage.be = be, .host = malloc((size_t)n * sizeof(float) + 1)};
    f->values = kd_tensor_1d(memory, KD_F32, n);
    f->reduce = (kd_reduce){.user = &f->others, .n_ranks = 2, .sum_f32 = add_number};
    cr_assert(memory != NULL && f->host != NULL);
    for (int64_t i = 0; i < n; i++) {
        f->host[i] = (float)(i % 1000);
    }
    be->ops->upload(be, f->values, f->host);
}

static void destroy(fixture *f)
{
    kd_backend *be = f->stage.be;
    kd_reduce_stage_release(&f->stage);
    be->ops->free(be, f->values.data);
    kd_backend_destroy(be);
    free(f->host);
}

static void expect_sums(fixture *f)
{
    const int64_t n = kd_tensor_elements(f->values);
    f->stage.be->ops->download(f->stage.be, f->host, f->values);
    for (int64_t i = 0; i < n; i++) {
        const float expected = (float)(i % 1000 + i / KD_REDUCE_PIECE + 1);
        cr_assert_eq(f->host[i], expected, "element %lld is %g, expected %g", (long long)i,
                     (double)f->host[i], (double)expected);
    }
}

Test(reduce_staged, all_values_are_summed_once_between_upload_and_download)
{
    const int64_t sizes[] = {1, KD_REDUCE_PIECE, KD_REDUCE_PIECE + 1, 4 * KD_REDUCE_PIECE + 77};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        fixture f;
        create(&f, sizes[s]);
        cr_assert_eq(kd_reduce_staged(&f.stage, &f.reduce, f.values), KD_OK);
        expect_sums(&f);
        int64_t n = 0;
        for (int i = 0; i < f.others.n_calls; i++) {
            cr_expect(f.others.n[i] == KD_REDUCE_PIECE || i + 1 == f.others.n_calls);
            n += f.others.n[i];
        }
        cr_expect_eq(n, sizes[s]);
        destroy(&f);
    }
}

Test(reduce_staged, its_memory_is_taken_once)
{
    fixture f;
    create(&f, 100);
    cr_assert_eq(kd_reduce_staged(&f.stage, &f.reduce, f.values), KD_OK);
    const size_t held = f.stage.be->ops->memory_usage(f.stage.be).held_bytes;
    cr_assert_eq(kd_reduce_staged(&f.stage, &f.reduce, f.values), KD_OK);
    cr_expect_eq(f.stage.be->ops->memory_usage(f.stage.be).held_bytes, held);
    destroy(&f);
}

Test(reduce_staged, a_fault_of_either_side_ends_it)
{
    fixture f;
    create(&f, 3 * KD_REDUCE_PIECE);
    kd_fault_quiet(1);
    f.others.fails_at = 2;
    cr_expect_eq(kd_reduce_staged(&f.stage, &f.reduce, f.values), KD_ERR_IO);
    EXPECT_FAULT("no such rank");
    cr_expect_eq(f.others.n_calls, 2);
    kd_backend_keep_fault(f.stage.be, kd_fail(KD_ERR_NOMEM, "no memory here"));
    cr_expect_eq(kd_reduce_staged(&f.stage, &f.reduce, f.values), KD_ERR_NOMEM);
    EXPECT_FAULT("no memory here");
    cr_expect_eq(f.others.n_calls, 2);
    destroy(&f);
}
