/* The vocabulary loss chunk by chunk: how it is cut changes nothing, and who listens to a chunk. */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"
#include "tests/support/vocab_case.h"

Test(ops_vocab_loss, neither_chunks_nor_threads_change_the_sums)
{
    const vocab_shape s = {101, 8, 33, 35, 32, 2, 1, 2.0f, 0.7f, 0.3f};
    const int64_t chunks[] = {1, 7, 32, 64, 1000};
    vocab_case whole;
    vocab_case_make(&whole, KD_F32, 1, s);
    vocab_case_run(&whole);
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        vocab_case f;
        vocab_case_make(&f, KD_F32, 1 + (int)i % 3, s);
        f.loss.chunk_rows = chunks[i];
        vocab_case_run(&f);
        cr_expect_lt(kd_test_nmse(f.loss.sums, whole.loss.sums), 1e-13, "%d", (int)chunks[i]);
        cr_expect_lt(kd_test_nmse(f.loss.d_hidden, whole.loss.d_hidden), 1e-12);
        cr_expect_lt(kd_test_nmse(f.loss.d_lm_head, whole.loss.d_lm_head), 1e-12);
        vocab_case_release(&f);
    }
    vocab_case_release(&whole);
}

Test(ops_vocab_loss, bf16_is_near_f32)
{
    const vocab_shape s = {640, 20, 600, 600, 600, 2, 1, 2.0f, 0.7f, 0.3f};
    vocab_case exact, rounded;
    vocab_case_make(&rounded, KD_BF16, 2, s);
    vocab_case_make(&exact, KD_F32, 1, s);
    exact.be->ops->copy(exact.be, exact.loss.hidden, rounded.loss.hidden);
    exact.be->ops->copy(exact.be, exact.loss.lm_head, rounded.loss.lm_head);
    exact.be->ops->copy(exact.be, exact.teachers[0].hidden, rounded.teachers[0].hidden);
    exact.be->ops->copy(exact.be, exact.teachers[0].lm_head, rounded.teachers[0].lm_head);
    vocab_case_run(&exact);
    vocab_case_run(&rounded);
    cr_expect_lt(kd_test_nmse(rounded.loss.sums, exact.loss.sums), 1e-11);
    cr_expect_lt(kd_test_nmse(rounded.loss.d_hidden, exact.loss.d_hidden), 1e-5);
    cr_expect_lt(kd_test_nmse(rounded.loss.d_lm_head, exact.loss.d_lm_head), 1e-5);
    vocab_case_release(&exact);
    vocab_case_release(&rounded);
}

/*
 * Adds 2 * 0.1 * logits to the gradient of every row, also of those that take no part, and the squares of
 * those that do times 0.1 to a sum of its own.
 */
typedef struct listening {
    double sum;
    int64_t n_rows, last_row;
    double teachers[2]; /* sums of what the teachers' logits were */
} listening;

enum { SEEN_ROWS = 9, SEEN_COLUMNS = 9 }; /* at most */

/* A chunk's tensor where the host may read it. */
static void fetch(const kd_vocab_chunk *chunk, float *values, kd_tensor t)
{
    cr_assert_leq(kd_tensor_elements(t), SEEN_ROWS * SEEN_COLUMNS);
    chunk->be->ops->download(chunk->be, values, t);
}

static void add_squares(const kd_vocab_chunk *chunk, const float *student)
{
    float d[SEEN_ROWS * SEEN_COLUMNS];
    fetch(chunk, d, chunk->d_student);
    for (int64_t i = 0; i < kd_tensor_elements(chunk->d_student); i++) {
        d[i] += 0.2f * student[i];
    }
    chunk->be->ops->upload(chunk->be, chunk->d_student, d);
}

static void square_logits(void *user, const kd_vocab_chunk *chunk)
{
    listening *l = user;
    int32_t numbers[SEEN_ROWS];
    float student[SEEN_ROWS * SEEN_COLUMNS], teachers[2][SEEN_ROWS * SEEN_COLUMNS];
    const int64_t n_columns = kd_tensor_columns(chunk->student);
    fetch(chunk, student, chunk->student);
    chunk->be->ops->download(chunk->be, numbers, chunk->rows);
    for (int t = 0; t < chunk->n_teachers; t++) {
        fetch(chunk, teachers[t], chunk->teachers[t]);
    }
    for (int64_t row = 0; row < kd_tensor_rows(chunk->student); row++) {
        if (numbers[row] < 0) {
            continue;
        }
        cr_expect_gt(numbers[row], l->last_row, "rows come in order");
        l->last_row = numbers[row];
        l->n_rows++;
        for (int64_t v = 0; v < n_columns; v++) {
            const double z = (double)student[row * n_columns + v];
            l->sum += 0.1 * z * z;
        }
        for (int t = 0; t < chunk->n_teachers; t++) {
            const int64_t at = row * kd_tensor_columns(chunk->teachers[t]) + 1;
            l->teachers[t] += (double)teachers[t][at] * (numbers[row] + 1);
        }
    }
    add_squares(chunk, student);
}

static double naive_with_squares(void *user)
{
    const vocab_case *f = user;
    double sum = vocab_case_naive(f, NULL);
    for (int64_t row = 0; row < kd_tensor_rows(f->loss.hidden); row++) {
        for (int64_t v = 0; vocab_case_takes(f, row) && v < kd_tensor_rows(f->loss.lm_head); v++) {
            sum += 0.1 * vocab_case_student(f, row, v) * vocab_case_student(f, row, v);
        }
    }
    return sum;
}

Test(ops_vocab_loss, a_listener_sees_logits_and_adds_to_the_gradient)
{
    listening l = {.last_row = -1};
    vocab_case f;
    vocab_case_make(&f, KD_F32, 1, (vocab_shape){9, 3, 7, 9, 6, 2, 1, 2.0f, 0.7f, 0.3f});
    f.teachers[1].weight = 0.0; /* seen all the same */
    f.loss.chunk_rows = 4;
    f.loss.chunk = square_logits;
    f.loss.user = &l;
    vocab_case_run(&f);
    cr_expect_eq(l.n_rows, 7);
    cr_expect_float_eq(l.sum, naive_with_squares(&f) - vocab_case_naive(&f, NULL), 1e-5 * l.sum);
    for (int t = 0; t < 2; t++) {
        double wanted = 0.0;
        for (int64_t row = 0; row < 9; row++) {
            wanted += vocab_case_takes(&f, row)
                          ? vocab_case_teacher(&f, t, row, 1) * (double)(row + 1)
                          : 0.0;
        }
        cr_expect_float_eq(l.teachers[t], wanted, 1e-5 * fabs(wanted), "teacher %d", t);
    }
    cr_expect_lt(kd_test_slope_error(naive_with_squares, &f, f.loss.hidden, f.loss.d_hidden, 1e-3),
                 1e-4);
    cr_expect_lt(
        kd_test_slope_error(naive_with_squares, &f, f.loss.lm_head, f.loss.d_lm_head, 1e-3), 1e-4);
    vocab_case_release(&f);
}

/* Uses the table inside: the chunk's memory must not be touched by it. */
static void run_operations(void *user, const kd_vocab_chunk *chunk)
{
    const vocab_case *other = user;
    chunk->be->ops->vocab_loss(chunk->be, &other->loss);
}

Test(ops_vocab_loss, a_listener_that_changes_nothing_changes_no_bit)
{
    const vocab_shape s = {70, 5, 21, 21, 21, 1, 1, 2.0f, 0.7f, 0.3f};
    for (int dtype = 0; dtype < 2; dtype++) {
        vocab_case plain, heard, other;
        const kd_dtype compute = dtype == 0 ? KD_F32 : KD_BF16;
        vocab_case_make(&plain, compute, 2, s);
        vocab_case_make(&heard, compute, 2, s);
        vocab_case_make(&other, compute, 2,
                        (vocab_shape){90, 5, 50, 50, 50, 2, 2, 2.0f, 0.7f, 0.3f});
        plain.loss.chunk_rows = heard.loss.chunk_rows = 32;
        heard.loss.chunk = run_operations;
        heard.loss.user = &other;
        vocab_case_run(&plain);
        vocab_case_run(&heard);
        cr_expect_eq(kd_test_nmse(heard.loss.sums, plain.loss.sums), 0.0);
        cr_expect_eq(kd_test_nmse(heard.loss.d_hidden, plain.loss.d_hidden), 0.0);
        cr_expect_eq(kd_test_nmse(heard.loss.d_lm_head, plain.loss.d_lm_head), 0.0);
        vocab_case_release(&plain);
        vocab_case_release(&heard);
        vocab_case_release(&other);
    }
}
