#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/rng.h"

Test(rng, values_never_change)
{
    /* Checkpoints, shards and splits of earlier runs depend on these. */
    cr_expect(eq(u64, kd_rng_u64(0, 0), UINT64_C(0xa706dd2f4d197e6f)));
    cr_expect(eq(u64, kd_rng_u64(1, 2), UINT64_C(0x0b95f66d327e8d78)));
    cr_expect(eq(u64, kd_rng_key(7, "init"), UINT64_C(0x5a2c6a6567431e77)));
    cr_expect(eq(u64, kd_rng_permute(5, 3, 1000), UINT64_C(435)));
}

Test(rng, keys_of_other_seeds_and_purposes_differ)
{
    const uint64_t key = kd_rng_key(1, "init");
    cr_expect(eq(u64, key, kd_rng_key(1, "init")));
    cr_expect(ne(u64, key, kd_rng_key(2, "init")));
    cr_expect(ne(u64, key, kd_rng_key(1, "split")));
    cr_expect(ne(u64, kd_rng_key(1, "ab"), kd_rng_key(1, "ba")));
}

Test(rng, uniform_fills_the_unit_interval)
{
    enum { N = 100000 };

    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double u = kd_rng_uniform(3, i);
        cr_assert(u >= 0.0 && u < 1.0);
        sum += u;
        squares += u * u;
    }
    cr_expect(epsilon_eq(dbl, sum / N, 0.5, 0.005));
    cr_expect(epsilon_eq(dbl, squares / N, 1.0 / 3, 0.005));
}

Test(rng, normal_has_mean_zero_and_variance_one)
{
    enum { N = 100000 };

    double sum = 0, squares = 0, beyond = 0;
    for (uint64_t i = 0; i < N; i++) {
        const double x = kd_rng_normal(4, i);
        cr_assert(isfinite(x));
        sum += x;
        squares += x * x;
        beyond += fabs(x) > 1.959964;
    }
    cr_expect(epsilon_eq(dbl, sum / N, 0.0, 0.015));
    cr_expect(epsilon_eq(dbl, squares / N, 1.0, 0.02));
    cr_expect(epsilon_eq(dbl, beyond / N, 0.05, 0.004));
}

Test(rng, neighbouring_keys_are_not_shifted_streams)
{
    const uint64_t gamma = UINT64_C(0x9e3779b97f4a7c15);
    for (uint64_t i = 0; i < 100; i++) {
        cr_assert(ne(u64, kd_rng_u64(9 + gamma, i), kd_rng_u64(9, i + 1)));
        cr_assert(ne(u64, kd_rng_u64(10, i), kd_rng_u64(9, i)));
    }
}

static void expect_bijection(uint64_t key, uint64_t n)
{
    bool *seen = calloc(n, sizeof *seen);
    for (uint64_t i = 0; i < n; i++) {
        const uint64_t image = kd_rng_permute(key, i, n);
        cr_assert(lt(u64, image, n));
        cr_assert(not(seen[image]), "n %lu: %lu twice", n, image);
        seen[image] = true;
    }
    free(seen);
}

Test(rng, permute_is_a_bijection_for_odd_and_even_sizes)
{
    const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 4096, 4097};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        expect_bijection(i, sizes[i]);
    }
}

Test(rng, permute_moves_things_and_depends_on_the_key)
{
    uint64_t n_fixed = 0, n_same = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        n_fixed += kd_rng_permute(1, i, 1000) == i;
        n_same += kd_rng_permute(1, i, 1000) == kd_rng_permute(2, i, 1000);
    }
    cr_expect(lt(u64, n_fixed, 10));
    cr_expect(lt(u64, n_same, 10));
}

Test(rng, permute_of_the_largest_size_stays_in_range)
{
    const uint64_t n = UINT64_C(1) << 62;
    cr_expect(lt(u64, kd_rng_permute(1, n - 1, n), n));
    cr_expect(lt(u64, kd_rng_permute(1, n - 2, n - 1), n - 1));
}

Test(rng, permute_of_an_index_outside_is_a_check, .signal = SIGABRT)
{
    (void)kd_rng_permute(1, 10, 10);
}
