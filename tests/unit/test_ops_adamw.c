#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

typedef struct fixture {
    kd_backend *be;
    kd_tensor param, grad, m, v, copy, norm_sq;
    kd_adamw args;
} fixture;

static kd_tensor flat(kd_tensor t)
{
    return kd_tensor_1d(t.data, t.dtype, kd_tensor_elements(t));
}

static fixture make(int n_threads, int64_t n)
{
    fixture f = {
        .be = kd_test_backend(KD_BF16, n_threads),
        .param = kd_test_random(KD_F32, 1, n, 1),
        .grad = kd_test_random(KD_F32, 1, n, 2),
        .m = kd_test_zeros(KD_F32, 1, n),
        .v = kd_test_zeros(KD_F32, 1, n),
        .copy = kd_test_zeros(KD_BF16, 1, n),
        .norm_sq = kd_test_zeros(KD_F64, 1, 1),
    };
    f.args = (kd_adamw){.param = flat(f.param),
                        .grad = flat(f.grad),
                        .m = flat(f.m),
                        .v = flat(f.v),
                        .copy = flat(f.copy),
                        .norm_sq = flat(f.norm_sq),
                        .clip_norm = 0.0,
                        .learning_rate = 1e-2,
                        .beta1 = 0.9,
                        .beta2 = 0.95,
                        .epsilon = 1e-8,
                        .weight_decay = 0.1};
    return f;
}

static void release(fixture *f)
{
    const kd_tensor all[] = {f->param, f->grad, f->m, f->v, f->copy, f->norm_sq};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(f->be);
}

static void steps(fixture *f, uint64_t n)
{
    for (f->args.step = 1; f->args.step <= n; f->args.step++) {
        f->be->ops->zero(f->be, f->args.norm_sq);
        f->be->ops->sum_squares(f->be, f->args.norm_sq, f->args.grad);
        f->be->ops->adamw(f->be, &f->args);
    }
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

/* One element through n steps of the same gradient, in doubles. */
static double naive(const kd_adamw *a, double p, double raw, double factor, int n)
{
    double m = 0.0, v = 0.0;
    const double g = raw * factor;
    for (int step = 1; step <= n; step++) {
        m = a->beta1 * m + (1.0 - a->beta1) * g;
        v = a->beta2 * v + (1.0 - a->beta2) * g * g;
        const double m_hat = m / (1.0 - pow(a->beta1, step)),
                     v_hat = v / (1.0 - pow(a->beta2, step));
        p -= a->learning_rate * (m_hat / (sqrt(v_hat) + a->epsilon) + a->weight_decay * p);
    }
    return p;
}

static void expect_formula(int64_t n, double clip_norm)
{
    fixture f = make(1, n);
    const kd_tensor expected = kd_test_zeros(KD_F64, 1, n);
    const double norm = sqrt(kd_test_project(f.grad, f.grad));
    const double factor = clip_norm > 0.0 && norm > clip_norm ? clip_norm / norm : 1.0;
    f.args.clip_norm = clip_norm;
    for (int64_t i = 0; i < n; i++) {
        kd_test_set(
            expected, 0, i,
            naive(&f.args, kd_test_get(f.param, 0, i), kd_test_get(f.grad, 0, i), factor, 3));
    }
    steps(&f, 3);
    cr_expect_lt(kd_test_nmse(f.param, expected), 1e-12, "%lld elements", (long long)n);
    cr_expect_lt(kd_test_nmse(f.copy, f.param), 1e-5);
    kd_test_free(expected);
    release(&f);
}

Test(ops_adamw, follows_the_formula)
{
    static const int64_t sizes[] = {1, 3, 17, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        expect_formula(sizes[i], 0.0);
        expect_formula(sizes[i], 1e-3);
        expect_formula(sizes[i], 1e9);
    }
}

Test(ops_adamw, the_first_step_has_the_size_of_the_learning_rate)
{
    fixture f = make(1, 3);
    const double before = kd_test_get(f.param, 0, 1), sign = kd_test_get(f.grad, 0, 1) > 0 ? 1 : -1;
    f.args.weight_decay = 0.0;
    f.args.copy = kd_tensor_none();
    steps(&f, 1);
    cr_expect_float_eq(kd_test_get(f.param, 0, 1), before - 1e-2 * sign, 1e-6);
    cr_expect_eq(kd_test_get(f.copy, 0, 1), 0.0, "no copy was asked for");
    release(&f);
}

Test(ops_adamw, threads_do_not_change_a_bit)
{
    fixture one = make(1, 100003), two = make(2, 100003);
    one.args.clip_norm = two.args.clip_norm = 1e-3;
    steps(&one, 2);
    steps(&two, 2);
    cr_expect_eq(kd_test_nmse(two.norm_sq, one.norm_sq), 0.0);
    cr_expect_eq(kd_test_nmse(two.param, one.param), 0.0);
    cr_expect_eq(kd_test_nmse(two.copy, one.copy), 0.0);
    release(&one);
    release(&two);
}

Test(ops_adamw, squares_are_summed_in_doubles_and_added)
{
    fixture f = make(2, 100003);
    kd_test_set(f.norm_sq, 0, 0, 5.0);
    f.be->ops->sum_squares(f.be, f.args.norm_sq, f.args.grad);
    const double expected = 5.0 + kd_test_project(f.grad, f.grad);
    cr_expect_float_eq(kd_test_get(f.norm_sq, 0, 0), expected, 1e-9 * expected);
    release(&f);
}

Test(ops_adamw, guards_that_are_not_finite_leave_everything_as_it_is)
{
    const double bad[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    for (int i = 0; i < 3; i++) {
        const kd_tensor guards[] = {kd_test_zeros(KD_F64, 1, 1), kd_test_zeros(KD_F64, 1, 3)};
        kd_test_set(guards[1], 0, 1, 2.0);
        kd_test_set(guards[1], 0, 2, bad[i]);
        fixture f = make(2, 40), untouched = make(1, 40);
        f.args.guards = guards;
        f.args.n_guards = 2;
        steps(&f, 2);
        cr_expect_eq(kd_test_nmse(f.param, untouched.param), 0.0);
        cr_expect_eq(kd_test_nmse(f.m, untouched.m), 0.0);
        cr_expect_eq(kd_test_nmse(f.v, untouched.v), 0.0);
        cr_expect_eq(kd_test_nmse(f.copy, untouched.copy), 0.0);
        kd_test_set(guards[1], 0, 2, 1e300);
        steps(&f, 1);
        cr_expect_gt(kd_test_nmse(f.param, untouched.param), 0.0);
        release(&f);
        release(&untouched);
        kd_test_free(guards[0]);
        kd_test_free(guards[1]);
    }
}

Test(ops_adamw, the_share_of_the_new_gradient_is_that_of_the_beta_itself)
{
    fixture f = make(1, 17);
    f.args.beta1 = 0.99;
    f.args.beta2 = 0.999;
    for (int64_t i = 0; i < 17; i++) {
        kd_test_set(f.grad, 0, i, 1.0);
    }
    steps(&f, 1);
    cr_expect_eq(kd_test_get(f.m, 0, 16), (double)(float)(1.0 - 0.99));
    cr_expect_eq(kd_test_get(f.v, 0, 16), (double)(float)(1.0 - 0.999));
    release(&f);
}
