#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

/* The last of these columns of the student and of the teacher are padding. */
typedef struct shape {
    int64_t rows, student, teacher, vocab;
    float temperature, kd_weight, hard_weight;
} shape;

typedef struct fixture {
    kd_backend *be;
    kd_vocab_rows rows;
    int32_t labels[64];
} fixture;

static void make(fixture *f, kd_dtype compute, int n_threads, shape s)
{
    f->be = kd_test_backend(compute, n_threads);
    for (int64_t i = 0; i < s.rows; i++) {
        f->labels[i] = i % 4 == 3 ? KD_LABEL_IGNORED : (int32_t)(i * 7 % s.student);
    }
    f->rows = (kd_vocab_rows){
        .student = kd_test_padded(KD_F32, s.rows, s.student, 1, 1),
        .teacher = kd_test_padded(KD_F32, s.rows, s.teacher, 2, 2),
        .labels = kd_tensor_1d(f->labels, KD_I32, s.rows),
        .d_logits = kd_test_padded(compute, s.rows, s.student, 3, 3),
        .sums = kd_test_zeros(KD_F64, 1, KD_VOCAB_SUMS),
        .n_vocab = s.vocab,
        .temperature = s.temperature,
        .kd_scale = s.temperature * s.temperature,
        .kd_weight = s.kd_weight,
        .hard_weight = s.hard_weight,
    };
}

static void release(fixture *f)
{
    kd_test_free(f->rows.student);
    kd_test_free(f->rows.teacher);
    kd_test_free(f->rows.d_logits);
    kd_test_free(f->rows.sums);
    kd_backend_destroy(f->be);
}

static void run(fixture *f)
{
    f->be->ops->zero(f->be, f->rows.sums);
    f->be->ops->vocab_loss(f->be, &f->rows);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

static double sum_of(const fixture *f, int which)
{
    return kd_test_get(f->rows.sums, 0, which);
}

static double log_sum(kd_tensor x, int64_t row, int64_t n, double t)
{
    double sum = 0.0;
    for (int64_t v = 0; v < n; v++) {
        sum += exp(kd_test_get(x, row, v) / t);
    }
    return log(sum);
}

static double naive_kd_row(const kd_vocab_rows *r, int64_t row)
{
    const double t = (double)r->temperature;
    const double lse_p = log_sum(r->teacher, row, r->n_vocab, t);
    const double lse_q = log_sum(r->student, row, r->n_vocab, t);
    double kl = 0.0;
    for (int64_t v = 0; v < r->n_vocab; v++) {
        const double log_p = kd_test_get(r->teacher, row, v) / t - lse_p;
        kl += exp(log_p) * (log_p - (kd_test_get(r->student, row, v) / t - lse_q));
    }
    return (double)r->kd_scale * kl;
}

/* The weighted loss in doubles; the raw sums as well, if asked for. */
static double naive(const fixture *f, double *sums_out)
{
    const kd_vocab_rows *r = &f->rows;
    double kd = 0.0, hard = 0.0;
    for (int64_t row = 0; row < r->student.dims[0]; row++) {
        if (f->labels[row] != KD_LABEL_IGNORED) {
            kd += r->kd_weight == 0.0f ? 0.0 : naive_kd_row(r, row);
            hard += log_sum(r->student, row, r->student.dims[1], 1.0) -
                    kd_test_get(r->student, row, f->labels[row]);
        }
    }
    if (sums_out != NULL) {
        sums_out[0] = kd;
        sums_out[1] = hard;
    }
    return (double)r->kd_weight * kd + (double)r->hard_weight * hard;
}

static double naive_loss(void *user)
{
    return naive(user, NULL);
}

static const shape shapes[] = {
    {1, 1, 1, 1, 1.0f, 0.7f, 0.3f},    {1, 3, 3, 3, 4.0f, 0.7f, 0.3f},
    {5, 17, 17, 17, 1.0f, 0.7f, 0.3f}, {5, 40, 33, 33, 1.0f, 0.7f, 0.3f},
    {6, 33, 40, 33, 2.0f, 1.0f, 0.0f}, {6, 40, 44, 37, 4.0f, 0.5f, 0.5f},
    {3, 17, 17, 17, 4.0f, 0.0f, 1.0f},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

Test(ops_vocab_loss, sums_follow_the_formula)
{
    for (int i = 0; i < N_SHAPES; i++) {
        fixture f;
        double sums[2];
        make(&f, KD_F32, 1, shapes[i]);
        run(&f);
        (void)naive(&f, sums);
        cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_KD), sums[0], 1e-5 * (sums[0] + 0.1), "%d", i);
        cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_HARD), sums[1], 1e-6 * (sums[1] + 0.1), "%d", i);
        release(&f);
    }
}

Test(ops_vocab_loss, gradients_match_central_differences)
{
    for (int i = 1; i < N_SHAPES; i++) {
        fixture f;
        make(&f, KD_F32, 1, shapes[i]);
        run(&f);
        cr_expect_lt(kd_test_slope_error(naive_loss, &f, f.rows.student, f.rows.d_logits, 1e-3),
                     1e-4, "shape %d", i);
        release(&f);
    }
}

Test(ops_vocab_loss, bf16_gradient_is_near_f32)
{
    const shape s = {20, 700, 700, 700, 2.0f, 0.7f, 0.3f};
    fixture exact, rounded;
    make(&exact, KD_F32, 1, s);
    make(&rounded, KD_BF16, 2, s);
    run(&exact);
    run(&rounded);
    cr_expect_lt(kd_test_nmse(rounded.rows.d_logits, exact.rows.d_logits), 5e-6);
    cr_expect_eq(kd_test_nmse(rounded.rows.sums, exact.rows.sums), 0.0,
                 "sums do not depend on the threads");
    release(&exact);
    release(&rounded);
}

Test(ops_vocab_loss, ignored_rows_have_no_gradient_and_do_not_count)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){4, 9, 9, 9, 1.0f, 0.7f, 0.3f});
    run(&f);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_ROWS), 3.0);
    for (int64_t v = 0; v < 9; v++) {
        cr_expect_eq(kd_test_get(f.rows.d_logits, 3, v), 0.0);
    }
    release(&f);
}

Test(ops_vocab_loss, equal_logits_have_no_divergence)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){3, 17, 17, 17, 4.0f, 1.0f, 0.0f});
    f.be->ops->copy(f.be, f.rows.teacher, f.rows.student);
    run(&f);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_KD), 0.0, 1e-6);
    cr_expect_lt(kd_test_project(f.rows.d_logits, f.rows.d_logits), 1e-12);
    release(&f);
}

Test(ops_vocab_loss, huge_logits_do_not_overflow)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){1, 17, 17, 17, 1.0f, 0.7f, 0.3f});
    for (int64_t v = 0; v < 17; v++) {
        kd_test_set(f.rows.student, 0, v, 1e4 * (double)(v + 1));
        kd_test_set(f.rows.teacher, 0, v, -1e4 * (double)(v + 1));
    }
    f.labels[0] = 16;
    run(&f);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_HARD), 0.0, 1e-3);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_KD), 160000.0, 1.0);
    release(&f);
}

Test(ops_vocab_loss, the_first_of_the_largest_logits_is_the_prediction)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){3, 4, 4, 4, 1.0f, 0.0f, 1.0f});
    static const double logits[3][4] = {{1, 3, 3, 0}, {1, 3, 3, 0}, {9, 1, 1, 1}};
    for (int i = 0; i < 12; i++) {
        kd_test_set(f.rows.student, i / 4, i % 4, logits[i / 4][i % 4]);
    }
    f.labels[0] = 1;
    f.labels[1] = 2;
    f.labels[2] = 0;
    run(&f);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_CORRECT), 2.0);
    release(&f);
}

Test(ops_vocab_loss, neither_teacher_nor_gradient_is_needed)
{
    fixture f, full;
    const shape s = {5, 17, 17, 17, 4.0f, 0.7f, 0.3f};
    make(&f, KD_BF16, 1, s);
    make(&full, KD_BF16, 1, s);
    const kd_tensor teacher = f.rows.teacher, gradient = f.rows.d_logits;
    f.rows.teacher = kd_tensor_none();
    f.rows.d_logits = kd_tensor_none();
    run(&f);
    run(&full);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_KD), 0.0);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_HARD), sum_of(&full, KD_VOCAB_SUM_HARD));
    f.rows.teacher = teacher;
    f.rows.d_logits = gradient;
    release(&f);
    release(&full);
}
