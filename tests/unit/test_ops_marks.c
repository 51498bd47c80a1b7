/* Times of places in the queue: known once it is past them, and asked for without waiting. */
#include <criterion/criterion.h>

#include "base/log.h"
#include "tests/support/ops_check.h"

Test(ops_marks, time_passes_from_one_to_the_next)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const kd_tensor x = kd_test_random(KD_F32, 3, 17, 1), y = kd_test_zeros(KD_F32, 3, 17);
    kd_marks *marks = be->ops->marks_create(be, 3);
    double forward_s = -1.0, back_s = 1.0;
    cr_assert_not_null(marks);
    be->ops->mark(be, marks, 0);
    be->ops->copy(be, y, x);
    be->ops->mark(be, marks, 2);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect(be->ops->marks_elapsed(be, marks, 0, 2, &forward_s));
    cr_expect(be->ops->marks_elapsed(be, marks, 2, 0, &back_s));
    cr_expect(forward_s >= 0.0 && forward_s < 600.0, "%g", forward_s);
    cr_expect_float_eq(back_s, -forward_s, 1e-9);
    cr_expect_not(be->ops->marks_elapsed(be, marks, 0, 1, &back_s), "one that was never marked");
    cr_expect_not(be->ops->marks_elapsed(be, marks, 1, 2, &back_s), "nor from it");
    cr_expect_float_eq(back_s, -forward_s, 1e-9, "untouched");
    be->ops->marks_destroy(be, marks);
    be->ops->marks_destroy(be, NULL);
    kd_test_free(x);
    kd_test_free(y);
    kd_backend_destroy(be);
}

Test(ops_marks, a_mark_that_is_made_again_has_the_new_time)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_marks *marks = be->ops->marks_create(be, 2);
    double s = 1.0;
    cr_assert_not_null(marks);
    be->ops->mark(be, marks, 0);
    be->ops->mark(be, marks, 1);
    be->ops->mark(be, marks, 0); /* now the later one */
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect(be->ops->marks_elapsed(be, marks, 0, 1, &s));
    cr_expect(s <= 0.0 && s > -600.0, "%g", s);
    be->ops->marks_destroy(be, marks);
    kd_backend_destroy(be);
}

Test(ops_marks, after_a_fault_no_time_is_told)
{
    kd_backend *be = kd_test_backend(KD_F32, 1);
    kd_marks *marks = be->ops->marks_create(be, 2);
    double s = 7.0;
    cr_assert_not_null(marks);
    be->ops->mark(be, marks, 0);
    be->ops->mark(be, marks, 1);
    kd_fault_quiet(1);
    kd_backend_keep_fault(be, kd_fail(KD_ERR_IO, "planted"));
    be->ops->mark(be, marks, 1);
    cr_expect_not(be->ops->marks_elapsed(be, marks, 0, 1, &s));
    cr_expect_float_eq(s, 7.0, 0.0);
    kd_fault_quiet(0);
    be->ops->marks_destroy(be, marks);
    kd_backend_destroy(be);
}
