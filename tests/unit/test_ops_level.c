#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/support/ops_check.h"

static void limit_to(const char *level)
{
    cr_assert_eq(setenv("KD_CPU_LEVEL", level, 1), 0);
}

#ifdef __x86_64__
#define LOWEST "v2"
#else
#define LOWEST "base"
#endif

Test(ops_level, a_limit_chooses_the_kernels)
{
    limit_to(LOWEST);
    kd_backend *be = kd_test_backend(KD_F32, 1);
    cr_expect_str_eq(be->ops->name, "cpu " LOWEST);
    kd_backend_destroy(be);
}

Test(ops_level, no_limit_is_at_least_the_lowest)
{
    cr_assert_eq(unsetenv("KD_CPU_LEVEL"), 0);
    kd_backend *be = kd_test_backend(KD_F32, 1);
    cr_expect_geq(strcmp(be->ops->name, "cpu " LOWEST), 0);
    kd_backend_destroy(be);
}

Test(ops_level, an_unknown_level_is_refused)
{
    kd_backend *be = NULL;
    kd_fault_quiet(1);
    limit_to("v1");
    cr_expect_eq(kd_backend_create_cpu(KD_F32, 1, &be), KD_ERR_ARG);
    cr_expect_null(be);
    cr_expect_not_null(strstr(kd_fault_text(), "KD_CPU_LEVEL: found \"v1\", expected " LOWEST));
}

Test(ops_level, a_back_end_is_made_at_the_level_that_is_asked_for)
{
    kd_backend *be = NULL;
    cr_assert_eq(unsetenv("KD_CPU_LEVEL"), 0);
    cr_expect_str_eq(kd_cpu_level_name(0), LOWEST);
    cr_expect_null(kd_cpu_level_name(-1));
    for (int i = 0; kd_cpu_level_name(i) != NULL; i++) {
        const char *name = kd_cpu_level_name(i);
        kd_fault_quiet(1);
        const kd_status st = kd_backend_create_cpu_at(KD_F32, 1, name, &be);
        cr_expect_eq(st, kd_cpu_has_level(name) ? KD_OK : KD_ERR_ARG, "%s", name);
        if (!st) {
            cr_expect_str_eq(be->ops->name + strlen("cpu "), name);
            kd_backend_destroy(be);
        }
    }
    limit_to(LOWEST);
    cr_expect(kd_cpu_has_level(LOWEST));
    cr_expect_not(kd_cpu_has_level("v1"));
    cr_expect_not(kd_cpu_has_level("v3"));
    be = NULL;
    cr_expect_eq(kd_backend_create_cpu_at(KD_F32, 1, "v3", &be), KD_ERR_ARG);
    cr_expect_null(be);
    cr_expect_not_null(strstr(kd_fault_text(), "found the level v3"));
}

/* What two levels make of one row differs in rounding alone. */
Test(ops_level, levels_agree)
{
    enum { ROWS = 5, COLUMNS = 331 };

    const kd_tensor gu = kd_test_random(KD_F32, ROWS, 2 * COLUMNS, 1);
    kd_tensor h[2];
    for (int i = 0; i < 2; i++) {
        h[i] = kd_test_zeros(KD_F32, ROWS, COLUMNS);
        limit_to(i == 0 ? LOWEST : "");
        kd_backend *be = kd_test_backend(KD_F32, 1);
        be->ops->swiglu(be, h[i], gu);
        cr_assert_eq(kd_backend_wait(be), KD_OK);
        kd_backend_destroy(be);
    }
    cr_expect_lt(kd_test_nmse(h[1], h[0]), 1e-13);
    kd_test_free(gu);
    kd_test_free(h[0]);
    kd_test_free(h[1]);
}

Test(ops_level, auto_is_bf16_where_every_rank_multiplies_it)
{
    cr_expect_eq(kd_dtype_auto(3, 3), KD_BF16);
    cr_expect_eq(kd_dtype_auto(3, 2), KD_F32);
    cr_expect_eq(kd_dtype_auto(1, 0), KD_F32);
    cr_expect_eq(kd_dtype_auto(0, 0), KD_F32, "a role without ranks");
}
