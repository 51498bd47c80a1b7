/* planted.c - what a runner must bear: tests that fail in every way, between two that pass. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/gpu/criterion/criterion.h"

static int n_before; /* in this process */

static const char *trace = "";

static void begin(void)
{
    trace = "begun";
}

static void begin_inside(void)
{
    cr_assert_str_eq(trace, "begun", "the suite's comes first");
    trace = "within";
}

static void end(void)
{
    (void)fprintf(stderr, "%s, and ended\n", trace);
}

TestSuite(fixtures, .init = begin, .fini = end);

Test(fixtures, run_around_a_test, .init = begin_inside)
{
    cr_expect_str_eq(trace, "within");
    trace = "left";
}

Test(planted, a_first_one_passes)
{
    n_before++;
    cr_assert_eq(1 + 1, 2);
    cr_expect_float_eq(1.0, 1.0 + 1e-9, 1e-6, "nearly %d", 1);
}

Test(planted, b_shares_the_process)
{
    cr_expect_eq(n_before, 1, "found %d", n_before);
}

Test(planted, c_goes_on_after_what_it_expects)
{
    cr_expect_lt(2, 1, "the %s one", "first");
    cr_expect_float_eq(NAN, 0.0, 1.0, "the second one");
}

Test(planted, d_ends_at_what_it_asserts)
{
    cr_assert_not_null(NULL, "before it");
    cr_expect(false, "after it");
}

Test(planted, e_crashes)
{
    abort();
}

Test(planted, f_hangs)
{
    for (;;) {
        (void)pause();
    }
}

Test(planted, g_ends_the_process)
{
    _exit(0);
}

Test(planted, h_passes_in_a_fresh_process)
{
    cr_expect_eq(n_before, 0);
}
