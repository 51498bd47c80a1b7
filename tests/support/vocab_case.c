/*
 * The loss again in doubles, row by row and column by column, as its formulas stand in tensor/ops.h:
 * nothing of it is shared with what it is held against.
 */
#include "tests/support/vocab_case.h"

#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

static void make_teacher(vocab_case *f, const vocab_shape *s, int t, kd_dtype compute)
{
    const uint64_t seed = 10 + 3 * (uint64_t)t;
    kd_vocab_teacher *teacher = &f->teachers[t];
    *teacher = (kd_vocab_teacher){.weight = 0.5 + t};
    if (t < s->n_hidden) {
        teacher->hidden = kd_test_padded(compute, s->rows, s->width + 2, 1, seed);
        teacher->lm_head = kd_test_random(compute, s->teacher, s->width + 2, seed + 1);
    } else {
        teacher->logits = kd_test_padded(KD_F32, s->rows, s->teacher, 2, seed + 2);
    }
}

/* Every fourth row has no label. */
void vocab_case_make(vocab_case *f, kd_dtype compute, int n_threads, vocab_shape s)
{
    f->be = kd_test_backend(compute, n_threads);
    cr_assert_leq(s.rows, ROWS_MAX);
    const kd_tensor labels = kd_test_zeros(KD_I32, 1, s.rows);
    f->labels = kd_test_ints(labels);
    for (int64_t i = 0; i < s.rows; i++) {
        f->labels[i] = i % 4 == 3 ? KD_LABEL_IGNORED : (int32_t)(i * 7 % s.student);
    }
    for (int t = 0; t < s.n_teachers; t++) {
        make_teacher(f, &s, t, compute);
    }
    f->loss = (kd_vocab_loss){
        .hidden = kd_test_padded(compute, s.rows, s.width, 1, 1),
        .lm_head = kd_test_random(compute, s.student, s.width, 2),
        .labels = kd_tensor_1d(labels.data, KD_I32, s.rows),
        .sums = kd_test_zeros(KD_F64, 1, KD_VOCAB_SUMS),
        .d_hidden = kd_test_padded(KD_F32, s.rows, s.width, 3, 3),
        .d_lm_head = kd_test_random(KD_F32, s.student, s.width, 4),
        .teachers = f->teachers,
        .n_teachers = s.n_teachers,
        .n_vocab = s.vocab,
        .temperature = s.temperature,
        .kd_scale = s.kd_scale,
        .hard_scale = s.hard_scale,
    };
}

static void free_if_there(kd_tensor t)
{
    if (t.data != NULL) {
        kd_test_free(t);
    }
}

void vocab_case_release(vocab_case *f)
{
    for (int t = 0; t < f->loss.n_teachers; t++) {
        free_if_there(f->teachers[t].hidden);
        free_if_there(f->teachers[t].lm_head);
        free_if_there(f->teachers[t].logits);
    }
    kd_test_free(kd_tensor_1d(f->labels, KD_I32, kd_tensor_rows(f->loss.hidden)));
    kd_test_free(f->loss.hidden);
    kd_test_free(f->loss.lm_head);
    kd_test_free(f->loss.sums);
    free_if_there(f->loss.d_hidden);
    free_if_there(f->loss.d_lm_head);
    kd_backend_destroy(f->be);
}

void vocab_case_run(vocab_case *f)
{
    f->be->ops->zero(f->be, f->loss.sums);
    f->be->ops->vocab_loss(f->be, &f->loss);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

double vocab_case_sum(const vocab_case *f, int which)
{
    return kd_test_get(f->loss.sums, 0, which);
}

static double dot(kd_tensor x, int64_t row, kd_tensor w, int64_t column)
{
    double sum = 0.0;
    for (int64_t i = 0; i < kd_tensor_columns(w); i++) {
        sum += kd_test_get(x, row, i) * kd_test_get(w, column, i);
    }
    return sum;
}

double vocab_case_student(const vocab_case *f, int64_t row, int64_t v)
{
    return dot(f->loss.hidden, row, f->loss.lm_head, v);
}

double vocab_case_teacher(const vocab_case *f, int t, int64_t row, int64_t v)
{
    const kd_vocab_teacher *teacher = &f->loss.teachers[t];
    return teacher->hidden.data != NULL ? dot(teacher->hidden, row, teacher->lm_head, v)
                                        : kd_test_get(teacher->logits, row, v);
}

/* Turns n logits into log-probabilities at temperature t. */
static void log_softmax(double *x, int64_t n, double t)
{
    double sum = 0.0, max = -INFINITY;
    for (int64_t v = 0; v < n; v++) {
        max = fmax(max, x[v]);
    }
    for (int64_t v = 0; v < n; v++) {
        sum += exp((x[v] - max) / t);
    }
    for (int64_t v = 0; v < n; v++) {
        x[v] = (x[v] - max) / t - log(sum);
    }
}

static void mixture(const vocab_case *f, int64_t row, double *p)
{
    double x[ROWS_MAX], total = 0.0;
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        p[v] = 0.0;
    }
    for (int t = 0; t < f->loss.n_teachers; t++) {
        if (f->loss.teachers[t].weight == 0.0) {
            continue;
        }
        for (int64_t v = 0; v < f->loss.n_vocab; v++) {
            x[v] = vocab_case_teacher(f, t, row, v);
        }
        log_softmax(x, f->loss.n_vocab, (double)f->loss.temperature);
        total += f->loss.teachers[t].weight;
        for (int64_t v = 0; v < f->loss.n_vocab; v++) {
            p[v] += f->loss.teachers[t].weight * exp(x[v]);
        }
    }
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        p[v] /= total;
    }
}

static double naive_kd_row(const vocab_case *f, int64_t row)
{
    double p[ROWS_MAX], q[ROWS_MAX], kl = 0.0;
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        q[v] = vocab_case_student(f, row, v);
    }
    log_softmax(q, f->loss.n_vocab, (double)f->loss.temperature);
    mixture(f, row, p);
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        kl += p[v] > 0.0 ? p[v] * (log(p[v]) - q[v]) : 0.0;
    }
    return kl;
}

static double naive_hard_row(const vocab_case *f, int64_t row)
{
    double x[ROWS_MAX];
    const int64_t n = kd_tensor_rows(f->loss.lm_head);
    for (int64_t v = 0; v < n; v++) {
        x[v] = vocab_case_student(f, row, v);
    }
    log_softmax(x, n, 1.0);
    return -x[f->labels[row]];
}

static double weight_of_teachers(const vocab_case *f)
{
    double sum = 0.0;
    for (int t = 0; t < f->loss.n_teachers; t++) {
        sum += f->loss.teachers[t].weight;
    }
    return sum;
}

bool vocab_case_takes(const vocab_case *f, int64_t row)
{
    const int32_t *rows = f->loss.rows.data != NULL ? kd_test_ints(f->loss.rows) : NULL;
    bool listed = rows == NULL;
    for (int64_t i = 0; rows != NULL && i < kd_tensor_elements(f->loss.rows); i++) {
        listed = listed || rows[i] == row;
    }
    return listed && (f->loss.labels.data == NULL || f->labels[row] != KD_LABEL_IGNORED);
}

/* The scaled loss; the raw sums as well, if asked for. */
double vocab_case_naive(const vocab_case *f, double *sums_out)
{
    cr_assert_leq(kd_tensor_rows(f->loss.lm_head), ROWS_MAX); /* a row is on the stack */
    double kd = 0.0, hard = 0.0;
    for (int64_t row = 0; row < kd_tensor_rows(f->loss.hidden); row++) {
        if (vocab_case_takes(f, row)) {
            kd += weight_of_teachers(f) > 0.0 ? naive_kd_row(f, row) : 0.0;
            hard += f->loss.labels.data != NULL ? naive_hard_row(f, row) : 0.0;
        }
    }
    if (sums_out != NULL) {
        sums_out[0] = kd;
        sums_out[1] = hard;
    }
    return (double)f->loss.kd_scale * kd + (double)f->loss.hard_scale * hard;
}

static double naive_loss(void *user)
{
    return vocab_case_naive(user, NULL);
}

void vocab_case_expect(vocab_case *f, const char *what, int which)
{
    double sums[2];
    vocab_case_run(f);
    (void)vocab_case_naive(f, sums);
    cr_expect_float_eq(vocab_case_sum(f, KD_VOCAB_SUM_KD), sums[0], 1e-5 * (sums[0] + 0.1),
                       "%s %d: %g %g", what, which, vocab_case_sum(f, KD_VOCAB_SUM_KD), sums[0]);
    cr_expect_float_eq(vocab_case_sum(f, KD_VOCAB_SUM_HARD), sums[1], 2e-6 * (sums[1] + 0.1),
                       "%s %d", what, which);
    cr_expect_lt(kd_test_slope_error(naive_loss, f, f->loss.hidden, f->loss.d_hidden, 1e-3), 1e-4,
                 "%s %d: d_hidden", what, which);
    cr_expect_lt(kd_test_slope_error(naive_loss, f, f->loss.lm_head, f->loss.d_lm_head, 1e-3), 1e-4,
                 "%s %d: d_lm_head", what, which);
}
