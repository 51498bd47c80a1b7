#include <criterion/criterion.h>
#include <math.h>

#include "base/log.h"
#include "tensor/cpu/cpu.h"
#include "tests/support/fault.h"
#include "tests/support/ops_check.h"

enum { TEACHERS_MAX = 3, ROWS_MAX = 700 };

/* The last of these columns of the student and of the teachers are padding. */
typedef struct shape {
    int64_t rows, width, student, teacher, vocab;
    int n_teachers, n_hidden; /* the first of them give hidden states, the others logits */
    float temperature, kd_scale, hard_scale;
} shape;

typedef struct fixture {
    kd_backend *be;
    kd_vocab_loss loss;
    kd_vocab_teacher teachers[TEACHERS_MAX];
    int32_t labels[ROWS_MAX];
} fixture;

static void make_teacher(fixture *f, const shape *s, int t, kd_dtype compute)
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
static void make(fixture *f, kd_dtype compute, int n_threads, shape s)
{
    f->be = kd_test_backend(compute, n_threads);
    cr_assert_leq(s.rows, ROWS_MAX);
    for (int64_t i = 0; i < s.rows; i++) {
        f->labels[i] = i % 4 == 3 ? KD_LABEL_IGNORED : (int32_t)(i * 7 % s.student);
    }
    for (int t = 0; t < s.n_teachers; t++) {
        make_teacher(f, &s, t, compute);
    }
    f->loss = (kd_vocab_loss){
        .hidden = kd_test_padded(compute, s.rows, s.width, 1, 1),
        .lm_head = kd_test_random(compute, s.student, s.width, 2),
        .labels = kd_tensor_1d(f->labels, KD_I32, s.rows),
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

static void release(fixture *f)
{
    for (int t = 0; t < f->loss.n_teachers; t++) {
        free_if_there(f->teachers[t].hidden);
        free_if_there(f->teachers[t].lm_head);
        free_if_there(f->teachers[t].logits);
    }
    kd_test_free(f->loss.hidden);
    kd_test_free(f->loss.lm_head);
    kd_test_free(f->loss.sums);
    free_if_there(f->loss.d_hidden);
    free_if_there(f->loss.d_lm_head);
    kd_backend_destroy(f->be);
}

static void run(fixture *f)
{
    f->be->ops->zero(f->be, f->loss.sums);
    f->be->ops->vocab_loss(f->be, &f->loss);
    cr_assert_eq(kd_backend_wait(f->be), KD_OK);
}

static double sum_of(const fixture *f, int which)
{
    return kd_test_get(f->loss.sums, 0, which);
}

/* ---- the loss in doubles ---- */

static double dot(kd_tensor x, int64_t row, kd_tensor w, int64_t column)
{
    double sum = 0.0;
    for (int64_t i = 0; i < kd_tensor_columns(w); i++) {
        sum += kd_test_get(x, row, i) * kd_test_get(w, column, i);
    }
    return sum;
}

static double student_logit(const fixture *f, int64_t row, int64_t v)
{
    return dot(f->loss.hidden, row, f->loss.lm_head, v);
}

static double teacher_logit(const fixture *f, int t, int64_t row, int64_t v)
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

static void mixture(const fixture *f, int64_t row, double *p)
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
            x[v] = teacher_logit(f, t, row, v);
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

static double naive_kd_row(const fixture *f, int64_t row)
{
    double p[ROWS_MAX], q[ROWS_MAX], kl = 0.0;
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        q[v] = student_logit(f, row, v);
    }
    log_softmax(q, f->loss.n_vocab, (double)f->loss.temperature);
    mixture(f, row, p);
    for (int64_t v = 0; v < f->loss.n_vocab; v++) {
        kl += p[v] > 0.0 ? p[v] * (log(p[v]) - q[v]) : 0.0;
    }
    return kl;
}

static double naive_hard_row(const fixture *f, int64_t row)
{
    double x[ROWS_MAX];
    const int64_t n = kd_tensor_rows(f->loss.lm_head);
    for (int64_t v = 0; v < n; v++) {
        x[v] = student_logit(f, row, v);
    }
    log_softmax(x, n, 1.0);
    return -x[f->labels[row]];
}

static double weight_of_teachers(const fixture *f)
{
    double sum = 0.0;
    for (int t = 0; t < f->loss.n_teachers; t++) {
        sum += f->loss.teachers[t].weight;
    }
    return sum;
}

static bool takes_part(const fixture *f, int64_t row)
{
    const int32_t *rows = f->loss.rows.data;
    bool listed = rows == NULL;
    for (int64_t i = 0; rows != NULL && i < kd_tensor_elements(f->loss.rows); i++) {
        listed = listed || rows[i] == row;
    }
    return listed && (f->loss.labels.data == NULL || f->labels[row] != KD_LABEL_IGNORED);
}

/* The scaled loss; the raw sums as well, if asked for. */
static double naive(const fixture *f, double *sums_out)
{
    double kd = 0.0, hard = 0.0;
    for (int64_t row = 0; row < kd_tensor_rows(f->loss.hidden); row++) {
        if (takes_part(f, row)) {
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
    return naive(user, NULL);
}

static void expect_naive(fixture *f, const char *what, int which)
{
    double sums[2];
    run(f);
    (void)naive(f, sums);
    cr_expect_float_eq(sum_of(f, KD_VOCAB_SUM_KD), sums[0], 1e-5 * (sums[0] + 0.1), "%s %d: %g %g",
                       what, which, sum_of(f, KD_VOCAB_SUM_KD), sums[0]);
    cr_expect_float_eq(sum_of(f, KD_VOCAB_SUM_HARD), sums[1], 2e-6 * (sums[1] + 0.1), "%s %d", what,
                       which);
    cr_expect_lt(kd_test_slope_error(naive_loss, f, f->loss.hidden, f->loss.d_hidden, 1e-3), 1e-4,
                 "%s %d: d_hidden", what, which);
    cr_expect_lt(kd_test_slope_error(naive_loss, f, f->loss.lm_head, f->loss.d_lm_head, 1e-3), 1e-4,
                 "%s %d: d_lm_head", what, which);
}

static const shape shapes[] = {
    {1, 1, 3, 3, 3, 1, 0, 4.0f, 0.7f, 0.3f},     {5, 3, 17, 17, 17, 1, 0, 1.0f, 0.7f, 0.3f},
    {5, 17, 40, 33, 33, 1, 1, 1.0f, 0.7f, 0.3f}, {6, 4, 33, 40, 33, 1, 0, 2.0f, 1.0f, 0.0f},
    {6, 4, 40, 44, 37, 1, 1, 4.0f, 0.5f, 0.5f},  {3, 3, 17, 17, 17, 0, 0, 4.0f, 0.0f, 1.0f},
    {5, 3, 17, 17, 17, 2, 0, 1.0f, 0.7f, 0.3f},  {6, 4, 17, 21, 16, 2, 1, 3.0f, 0.7f, 0.3f},
    {6, 4, 17, 21, 16, 3, 2, 2.0f, 0.7f, 0.0f},  {35, 3, 9, 9, 9, 3, 3, 2.0f, 0.7f, 0.3f},
};

enum { N_SHAPES = sizeof shapes / sizeof *shapes };

Test(ops_vocab_loss, sums_and_gradients_follow_the_formulas)
{
    for (int i = 0; i < N_SHAPES; i++) {
        fixture f;
        make(&f, KD_F32, 1 + i % 2, shapes[i]);
        expect_naive(&f, "shape", i);
        release(&f);
    }
}

Test(ops_vocab_loss, a_teacher_of_weight_zero_changes_nothing)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){5, 3, 17, 17, 17, 3, 1, 2.0f, 0.7f, 0.3f});
    f.teachers[1].weight = 0.0;
    expect_naive(&f, "one of three is off", 0);
    f.teachers[0].weight = f.teachers[2].weight = 0.0;
    expect_naive(&f, "all are off", 0);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_KD), 0.0);
    release(&f);
}

Test(ops_vocab_loss, without_labels_every_row_counts_for_kd_and_hard_is_not_computed)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){6, 3, 17, 19, 16, 1, 0, 2.0f, 0.7f, 0.3f});
    f.loss.labels = kd_tensor_none();
    expect_naive(&f, "unlabelled", 0);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_ROWS), 6.0);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_HARD), 0.0);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_CORRECT), 0.0);
    release(&f);
}

Test(ops_vocab_loss, rows_that_are_not_listed_take_no_part)
{
    int32_t rows[] = {1, 2, 3, 7, 8};
    for (int labelled = 0; labelled < 2; labelled++) {
        fixture f;
        make(&f, KD_F32, 1, (shape){9, 3, 17, 17, 17, 2, 1, 2.0f, 0.7f, 0.3f});
        f.loss.rows = kd_tensor_1d(rows, KD_I32, 5);
        f.loss.labels = labelled ? f.loss.labels : kd_tensor_none();
        expect_naive(&f, "listed", labelled);
        cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_ROWS), labelled ? 3.0 : 5.0,
                     "rows 3 and 7 are ignored");
        for (int64_t c = 0; c < 3; c++) {
            cr_expect_eq(kd_test_get(f.loss.d_hidden, 0, c), 0.0);
            cr_expect_eq(kd_test_get(f.loss.d_hidden, 5, c), 0.0);
        }
        release(&f);
    }
}

Test(ops_vocab_loss, a_micro_batch_without_rows_has_no_gradient)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){4, 3, 9, 9, 9, 1, 0, 1.0f, 0.7f, 0.3f});
    for (int i = 0; i < 4; i++) {
        f.labels[i] = KD_LABEL_IGNORED;
    }
    f.loss.accumulate = true;
    const double before = kd_test_get(f.loss.d_lm_head, 2, 1);
    run(&f);
    cr_expect_eq(kd_test_get(f.loss.d_lm_head, 2, 1), before);
    cr_expect_eq(kd_test_project(f.loss.d_hidden, f.loss.d_hidden), 0.0);
    f.loss.accumulate = false;
    run(&f);
    cr_expect_eq(kd_test_project(f.loss.d_lm_head, f.loss.d_lm_head), 0.0);
    for (int i = 0; i < KD_VOCAB_SUMS; i++) {
        cr_expect_eq(sum_of(&f, i), 0.0);
    }
    release(&f);
}

Test(ops_vocab_loss, the_lm_heads_gradient_is_written_or_added_to)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){5, 3, 7, 7, 7, 1, 1, 1.0f, 0.7f, 0.3f});
    run(&f);
    const kd_tensor once = kd_test_zeros(KD_F32, 7, 3);
    f.be->ops->copy(f.be, once, f.loss.d_lm_head);
    run(&f);
    cr_expect_eq(kd_test_nmse(f.loss.d_lm_head, once), 0.0);
    f.loss.accumulate = true;
    run(&f);
    for (int64_t i = 0; i < 21; i++) {
        cr_expect_float_eq(kd_test_get(f.loss.d_lm_head, i / 3, i % 3),
                           2.0 * kd_test_get(once, i / 3, i % 3), 1e-6);
    }
    kd_test_free(once);
    release(&f);
}

/* ---- chunks ---- */

Test(ops_vocab_loss, neither_chunks_nor_threads_change_the_sums)
{
    const shape s = {101, 8, 33, 35, 32, 2, 1, 2.0f, 0.7f, 0.3f};
    const int64_t chunks[] = {1, 7, 32, 64, 1000};
    fixture whole;
    make(&whole, KD_F32, 1, s);
    run(&whole);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        fixture f;
        make(&f, KD_F32, 1 + (int)i % 3, s);
        f.loss.chunk_rows = chunks[i];
        run(&f);
        cr_expect_lt(kd_test_nmse(f.loss.sums, whole.loss.sums), 1e-13, "%d", (int)chunks[i]);
        cr_expect_lt(kd_test_nmse(f.loss.d_hidden, whole.loss.d_hidden), 1e-12);
        cr_expect_lt(kd_test_nmse(f.loss.d_lm_head, whole.loss.d_lm_head), 1e-12);
        release(&f);
    }
    release(&whole);
}

Test(ops_vocab_loss, bf16_is_near_f32)
{
    const shape s = {640, 20, 600, 600, 600, 2, 1, 2.0f, 0.7f, 0.3f};
    fixture exact, rounded;
    make(&rounded, KD_BF16, 2, s);
    make(&exact, KD_F32, 1, s);
    exact.be->ops->copy(exact.be, exact.loss.hidden, rounded.loss.hidden);
    exact.be->ops->copy(exact.be, exact.loss.lm_head, rounded.loss.lm_head);
    exact.be->ops->copy(exact.be, exact.teachers[0].hidden, rounded.teachers[0].hidden);
    exact.be->ops->copy(exact.be, exact.teachers[0].lm_head, rounded.teachers[0].lm_head);
    run(&exact);
    run(&rounded);
    cr_expect_lt(kd_test_nmse(rounded.loss.sums, exact.loss.sums), 1e-11);
    cr_expect_lt(kd_test_nmse(rounded.loss.d_hidden, exact.loss.d_hidden), 1e-5);
    cr_expect_lt(kd_test_nmse(rounded.loss.d_lm_head, exact.loss.d_lm_head), 1e-5);
    release(&exact);
    release(&rounded);
}

/* Adds 2 * 0.1 * logits to the gradient, and their squares times 0.1 to a sum of its own. */
typedef struct listening {
    double sum;
    int64_t n_rows, last_row;
    double teachers[2]; /* sums of what the teachers' logits were */
} listening;

static void square_logits(void *user, const kd_vocab_chunk *chunk)
{
    listening *l = user;
    for (int64_t row = 0; row < kd_tensor_rows(chunk->student); row++) {
        const int32_t number = ((const int32_t *)chunk->rows.data)[row];
        cr_expect_gt(number, l->last_row, "rows come in order");
        l->last_row = number;
        l->n_rows++;
        for (int64_t v = 0; v < kd_tensor_columns(chunk->student); v++) {
            const double z = kd_test_get(chunk->student, row, v);
            l->sum += 0.1 * z * z;
            if (chunk->d_student.data != NULL) {
                const double before = kd_test_get(chunk->d_student, row, v);
                kd_test_set(chunk->d_student, row, v, before + 0.2 * z);
            }
        }
        for (int t = 0; t < chunk->n_teachers; t++) {
            l->teachers[t] += kd_test_get(chunk->teachers[t], row, 1) * (number + 1);
        }
    }
}

static double naive_with_squares(void *user)
{
    const fixture *f = user;
    double sum = naive(f, NULL);
    for (int64_t row = 0; row < kd_tensor_rows(f->loss.hidden); row++) {
        for (int64_t v = 0; takes_part(f, row) && v < kd_tensor_rows(f->loss.lm_head); v++) {
            sum += 0.1 * student_logit(f, row, v) * student_logit(f, row, v);
        }
    }
    return sum;
}

Test(ops_vocab_loss, a_listener_sees_logits_and_adds_to_the_gradient)
{
    listening l = {.last_row = -1};
    fixture f;
    make(&f, KD_F32, 1, (shape){9, 3, 7, 9, 6, 2, 1, 2.0f, 0.7f, 0.3f});
    f.teachers[1].weight = 0.0; /* seen all the same */
    f.loss.chunk_rows = 4;
    f.loss.chunk = square_logits;
    f.loss.user = &l;
    run(&f);
    cr_expect_eq(l.n_rows, 7);
    cr_expect_float_eq(l.sum, naive_with_squares(&f) - naive(&f, NULL), 1e-5 * l.sum);
    for (int t = 0; t < 2; t++) {
        double wanted = 0.0;
        for (int64_t row = 0; row < 9; row++) {
            wanted += takes_part(&f, row) ? teacher_logit(&f, t, row, 1) * (double)(row + 1) : 0.0;
        }
        cr_expect_float_eq(l.teachers[t], wanted, 1e-5 * fabs(wanted), "teacher %d", t);
    }
    cr_expect_lt(kd_test_slope_error(naive_with_squares, &f, f.loss.hidden, f.loss.d_hidden, 1e-3),
                 1e-4);
    cr_expect_lt(
        kd_test_slope_error(naive_with_squares, &f, f.loss.lm_head, f.loss.d_lm_head, 1e-3), 1e-4);
    release(&f);
}

/* Uses the table inside: the chunk's memory must not be touched by it. */
static void run_operations(void *user, const kd_vocab_chunk *chunk)
{
    const fixture *other = user;
    chunk->be->ops->vocab_loss(chunk->be, &other->loss);
}

Test(ops_vocab_loss, a_listener_that_changes_nothing_changes_no_bit)
{
    const shape s = {70, 5, 21, 21, 21, 1, 1, 2.0f, 0.7f, 0.3f};
    for (int dtype = 0; dtype < 2; dtype++) {
        fixture plain, heard, other;
        const kd_dtype compute = dtype == 0 ? KD_F32 : KD_BF16;
        make(&plain, compute, 2, s);
        make(&heard, compute, 2, s);
        make(&other, compute, 2, (shape){90, 5, 50, 50, 50, 2, 2, 2.0f, 0.7f, 0.3f});
        plain.loss.chunk_rows = heard.loss.chunk_rows = 32;
        heard.loss.chunk = run_operations;
        heard.loss.user = &other;
        run(&plain);
        run(&heard);
        cr_expect_eq(kd_test_nmse(heard.loss.sums, plain.loss.sums), 0.0);
        cr_expect_eq(kd_test_nmse(heard.loss.d_hidden, plain.loss.d_hidden), 0.0);
        cr_expect_eq(kd_test_nmse(heard.loss.d_lm_head, plain.loss.d_lm_head), 0.0);
        release(&plain);
        release(&heard);
        release(&other);
    }
}

/* ---- values at the edge ---- */

/* A student whose logits are those of its one-hot hidden states' columns of the lm_head. */
static void make_logits(fixture *f, int64_t rows, int64_t n, float temperature, shape s)
{
    s.rows = s.width = rows;
    s.student = s.teacher = s.vocab = n;
    s.temperature = temperature;
    make(f, KD_F32, 1, s);
    for (int64_t i = 0; i < rows * rows; i++) {
        kd_test_set(f->loss.hidden, i / rows, i % rows, i / rows == i % rows ? 1.0 : 0.0);
    }
}

static void set_student(fixture *f, int64_t row, int64_t v, double logit)
{
    kd_test_set(f->loss.lm_head, v, row, logit);
}

Test(ops_vocab_loss, equal_logits_have_no_divergence)
{
    fixture f;
    make_logits(&f, 3, 17, 4.0f, (shape){.n_teachers = 2, .kd_scale = 1.0f});
    for (int64_t i = 0; i < 3 * 17; i++) {
        kd_test_set(f.teachers[0].logits, i / 17, i % 17,
                    kd_test_get(f.loss.lm_head, i % 17, i / 17));
        kd_test_set(f.teachers[1].logits, i / 17, i % 17,
                    kd_test_get(f.loss.lm_head, i % 17, i / 17));
    }
    run(&f);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_KD), 0.0, 1e-6);
    cr_expect_lt(kd_test_project(f.loss.d_hidden, f.loss.d_hidden), 1e-12);
    release(&f);
}

Test(ops_vocab_loss, masked_columns_of_teachers_have_no_probability)
{
    const double masks[] = {-INFINITY, -3.4028234e38};
    for (int i = 0; i < 4; i++) {
        fixture f;
        const int n_teachers = 1 + i / 2;
        make(&f, KD_F32, 1, (shape){6, 4, 17, 17, 17, n_teachers, 0, 2.0f, 0.7f, 0.3f});
        for (int64_t v = 0; v < 17; v++) {
            if (v % 3 != 1) {
                kd_test_set(f.teachers[0].logits, 2, v, masks[i % 2]);
            }
            if (n_teachers == 2 && v % 3 == 0) { /* these in both */
                kd_test_set(f.teachers[1].logits, 2, v, masks[i % 2]);
            }
        }
        kd_test_set(f.teachers[0].logits, 0, 16, masks[i % 2]);
        expect_naive(&f, "masked", i);
        release(&f);
    }
}

Test(ops_vocab_loss, a_row_without_a_column_left_is_refused_by_its_number)
{
    for (int n_teachers = 1; n_teachers <= 2; n_teachers++) {
        fixture f;
        make(&f, KD_F32, 1, (shape){9, 4, 7, 9, 7, n_teachers, 0, 2.0f, 0.7f, 0.3f});
        for (int64_t v = 0; v < 7; v++) { /* two padding columns keep theirs */
            kd_test_set(f.teachers[n_teachers - 1].logits, 5, v, -INFINITY);
        }
        kd_fault_quiet(1);
        f.be->ops->vocab_loss(f.be, &f.loss);
        cr_expect_eq(kd_backend_wait(f.be), KD_ERR_INVALID);
        EXPECT_FAULT("row 5: found no logit of a teacher above -inf among 7 columns");
        release(&f);
    }
}

Test(ops_vocab_loss, huge_logits_do_not_overflow)
{
    fixture f;
    make_logits(&f, 1, 17, 1.0f, (shape){.n_teachers = 1, .kd_scale = 0.7f, .hard_scale = 0.3f});
    for (int64_t v = 0; v < 17; v++) {
        set_student(&f, 0, v, 1e4 * (double)(v + 1));
        kd_test_set(f.teachers[0].logits, 0, v, -1e4 * (double)(v + 1));
    }
    f.labels[0] = 16;
    run(&f);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_HARD), 0.0, 1e-3);
    cr_expect_float_eq(sum_of(&f, KD_VOCAB_SUM_KD), 160000.0, 1.0);
    release(&f);
}

Test(ops_vocab_loss, the_first_of_the_largest_logits_is_the_prediction)
{
    static const double logits[3][4] = {{1, 3, 3, 0}, {1, 3, 3, 0}, {9, 1, 1, 1}};
    fixture f;
    make_logits(&f, 3, 4, 1.0f, (shape){.hard_scale = 1.0f});
    for (int i = 0; i < 12; i++) {
        set_student(&f, i / 4, i % 4, logits[i / 4][i % 4]);
    }
    f.labels[0] = 1;
    f.labels[1] = 2;
    f.labels[2] = 0;
    run(&f);
    cr_expect_eq(sum_of(&f, KD_VOCAB_SUM_CORRECT), 2.0);
    release(&f);
}

/* ---- what may be left out ---- */

Test(ops_vocab_loss, each_gradient_may_be_left_out)
{
    const shape s = {5, 3, 17, 17, 17, 1, 1, 4.0f, 0.7f, 0.3f};
    fixture full;
    make(&full, KD_F32, 1, s);
    run(&full);
    for (int left_out = 1; left_out < 4; left_out++) {
        fixture f;
        make(&f, KD_F32, 1, s);
        const kd_tensor d_hidden = f.loss.d_hidden, d_lm_head = f.loss.d_lm_head;
        f.loss.d_hidden = left_out & 1 ? kd_tensor_none() : d_hidden;
        f.loss.d_lm_head = left_out & 2 ? kd_tensor_none() : d_lm_head;
        run(&f);
        cr_expect_eq(kd_test_nmse(f.loss.sums, full.loss.sums), 0.0);
        if (left_out == 1) {
            cr_expect_eq(kd_test_nmse(d_lm_head, full.loss.d_lm_head), 0.0);
        }
        if (left_out == 2) {
            cr_expect_eq(kd_test_nmse(d_hidden, full.loss.d_hidden), 0.0);
        }
        f.loss.d_hidden = d_hidden;
        f.loss.d_lm_head = d_lm_head;
        release(&f);
    }
    release(&full);
}

static size_t peak_scratch(bool with_gradient)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){64, 8, 2000, 2000, 2000, 1, 1, 2.0f, 0.7f, 0.3f});
    const kd_tensor d_hidden = f.loss.d_hidden, d_lm_head = f.loss.d_lm_head;
    if (!with_gradient) {
        f.loss.d_hidden = f.loss.d_lm_head = kd_tensor_none();
    }
    run(&f);
    const size_t peak_bytes = ((const kd_cpu *)f.be)->scratch.peak_bytes;
    f.loss.d_hidden = d_hidden;
    f.loss.d_lm_head = d_lm_head;
    release(&f);
    return peak_bytes;
}

Test(ops_vocab_loss, in_f32_the_gradient_takes_the_place_of_the_logits)
{
    const size_t a_chunk = (size_t)64 * 2000 * sizeof(float);
    cr_expect_lt(peak_scratch(true), peak_scratch(false) + a_chunk / 8);
}

Test(ops_vocab_loss, logits_may_come_in_bf16)
{
    fixture f;
    make(&f, KD_F32, 1, (shape){9, 3, 17, 19, 17, 1, 0, 2.0f, 0.7f, 0.3f});
    kd_test_free(f.teachers[0].logits);
    f.teachers[0].logits = kd_test_padded(KD_BF16, 9, 19, 1, 7);
    expect_naive(&f, "bf16 logits", 0);
    release(&f);
}
