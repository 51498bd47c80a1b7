#include "tests/support/side.h"

#include <criterion/criterion.h>

#include "base/rng.h"
#include "tests/support/ops_check.h"

static kd_tensor keep(side *d, kd_tensor t, bool is_output)
{
    cr_assert_lt(d->n_made, SIDE_TENSORS_MAX);
    d->is_output[d->n_made] = is_output;
    return d->made[d->n_made++] = t;
}

static uint64_t next_seed(const side *d)
{
    return (uint64_t)d->n_made + 1;
}

/* Of a wider matrix, all of which is compared. */
static kd_tensor activations(side *d, kd_dtype dtype, int64_t rows, int64_t columns, bool is_output)
{
    const kd_tensor whole =
        kd_test_padded(dtype, rows, d->s.lead + columns, d->s.padding, next_seed(d));
    return kd_tensor_slice_columns(keep(d, whole, is_output), d->s.lead, columns);
}

kd_tensor side_in(side *d, kd_dtype dtype, int64_t rows, int64_t columns)
{
    return activations(d, dtype, rows, columns, false);
}

kd_tensor side_out(side *d, kd_dtype dtype, int64_t rows, int64_t columns)
{
    return activations(d, dtype, rows, columns, true);
}

kd_tensor side_weight(side *d, kd_dtype dtype, int64_t rows, int64_t columns)
{
    return keep(d, kd_test_random(dtype, rows, columns, next_seed(d)), false);
}

kd_tensor side_gradient(side *d, int64_t rows, int64_t columns)
{
    return keep(d, kd_test_random(KD_F32, rows, columns, next_seed(d)), true);
}

kd_tensor side_as_1d(kd_tensor t)
{
    return kd_tensor_1d(t.data, t.dtype, kd_tensor_elements(t));
}

kd_tensor side_in_1d(side *d, int64_t n)
{
    return side_as_1d(side_weight(d, KD_F32, 1, n));
}

kd_tensor side_out_1d(side *d, kd_dtype dtype, int64_t n)
{
    return side_as_1d(keep(d, kd_test_random(dtype, 1, n, next_seed(d)), true));
}

kd_tensor side_ints(side *d, int64_t rows, int64_t columns, bool is_output)
{
    return keep(d, kd_test_zeros(KD_I32, rows, columns), is_output);
}

kd_tensor side_ids(side *d, int64_t n, int64_t end)
{
    const uint64_t seed = next_seed(d);
    const kd_tensor t = side_as_1d(side_ints(d, 1, n, false));
    int32_t *values = kd_test_ints(t);
    for (int64_t i = 0; i < n; i++) {
        values[i] = (int32_t)(kd_rng_u64(seed, (uint64_t)i) % (uint64_t)end);
    }
    return t;
}

side side_on_cpu(kd_dtype compute, side_shape s)
{
    side d = {.compute = compute, .s = s};
    cr_assert_eq(kd_backend_create_cpu(compute, 1, &d.be), KD_OK);
    return d;
}

void side_finish(side *d)
{
    for (int i = 0; i < d->n_made; i++) {
        kd_test_free(d->made[i]);
    }
    kd_backend_destroy(d->be);
}

static void expect_same_ints(kd_tensor a, kd_tensor b, int i, int which)
{
    for (int64_t at = 0; at < kd_tensor_elements(b); at++) {
        cr_assert_eq(kd_test_ints(a)[at], kd_test_ints(b)[at],
                     "shape %d, tensor %d at %lld: %d, %d", which, i, (long long)at,
                     kd_test_ints(a)[at], kd_test_ints(b)[at]);
    }
}

static void expect_same(const side *tested, const side *host, int which)
{
    const double limit = host->compute == KD_BF16 ? 1e-5 : 1e-10;
    cr_assert_eq(tested->n_made, host->n_made);
    for (int i = 0; i < host->n_made; i++) {
        const kd_tensor a = tested->made[i], b = host->made[i];
        if (host->is_output[i] && b.dtype == KD_I32) {
            expect_same_ints(a, b, i, which);
        } else if (host->is_output[i]) {
            const double error = kd_test_nmse(a, b);
            cr_expect(error <= limit, "shape %d, tensor %d (%s): an error of %g, compute %s", which,
                      i, kd_dtype_name(b.dtype), error, kd_dtype_name(host->compute));
        }
    }
}

void side_compare(side_fn *run, kd_dtype compute, const side_shape *shapes, int n_shapes)
{
    for (int i = 0; i < n_shapes; i++) {
        side tested = {.be = kd_test_backend(compute, 3), .compute = compute, .s = shapes[i]};
        side host = side_on_cpu(compute, shapes[i]);
        host.be->expert_tile = tested.be->expert_tile; /* rows of segments are then the same */
        run(&tested);
        run(&host);
        cr_assert_eq(kd_backend_wait(tested.be), KD_OK);
        cr_assert_eq(kd_backend_wait(host.be), KD_OK);
        expect_same(&tested, &host, i);
        side_finish(&tested);
        side_finish(&host);
    }
}
