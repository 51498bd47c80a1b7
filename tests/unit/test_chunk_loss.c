/*
 * A loss over the vocabulary that only this program has: what a row of the table of losses can do at the
 * chunk tap. It takes the row of `z`, and so its message, and pulls the student's logits to the teachers':
 *
 *   mean over its rows, those of labels below 6, of 1 / 2 V * sum over columns of (z - mean z_T)^2
 *
 * z_T is 0 where no teacher gives logits.
 */
#include <criterion/criterion.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/logits.h"
#include "tests/support/back_end.h"
#include "tests/support/differences.h"
#include "tests/support/fault.h"
#include "tests/support/late_queue.h"
#include "tests/support/tiny_train.h"

enum { Z = 3, V = 11, LABELS = 6 }; /* the row's number; columns; labels that are counted */

static struct {
    bool is_taught;    /* reads the teachers' logits                     */
    bool is_elsewhere; /* plans another signal too                      */
    int n_calls;
    int n_given;   /* teachers with logits, at the last call           */
    bool labelled; /* at the last call                                 */
} pull;

static bool counts(int32_t label)
{
    return label >= 0 && label < LABELS;
}

static kd_status plan_pull(const ProtobufCMessage *message,
                           const kd_loss_context *context,
                           int reader,
                           kd_signal_plan *plan)
{
    const kd_signal other = {.kind = (kd_signal_kind)(KD_SIGNAL_TAP + KD_TAP_HIDDEN),
                             .layer = 1,
                             .rows = context->max_rows,
                             .columns = 8};
    kd_status st = KD_OK;
    if (pull.is_taught) {
        st = kd_teacher_logits_plan(message, context, reader, plan);
    }
    if (!st && pull.is_elsewhere) {
        st = kd_signal_plan_add(plan, &other, reader);
    }
    return st;
}

static int64_t count_pull(const kd_loss *loss, const kd_batch *batch)
{
    int64_t n = 0;
    if (batch->labels == NULL) {
        return kd_loss_count_real(loss, batch);
    }
    for (int64_t i = 0; i < batch->n_batch * batch->n_tokens; i++) {
        n += counts(batch->labels[i]);
    }
    return n;
}

/* (R, V) means of what the teachers give; 0 where none does. */
static double *targets(const kd_vocab_chunk *chunk)
{
    const int64_t n_rows = kd_tensor_rows(chunk->student);
    double *means = calloc((size_t)(n_rows * V), sizeof *means);
    pull.n_given = 0;
    for (int t = 0; t < chunk->n_teachers; t++) {
        pull.n_given += chunk->teachers[t].data != NULL;
    }
    for (int t = 0; t < chunk->n_teachers; t++) {
        if (chunk->teachers[t].data != NULL) {
            const int64_t width = kd_tensor_columns(chunk->teachers[t]);
            float *logits = tiny_values(chunk->be, chunk->teachers[t]);
            for (int64_t i = 0; i < n_rows * V; i++) {
                means[i] += (double)logits[i / V * width + i % V] / pull.n_given;
            }
            free(logits);
        }
    }
    return means;
}

/* A row's part of the loss; its gradient is added to. */
static double pull_row(const float *student, const double *target, double scale, float *gradient)
{
    double sum = 0.0;
    for (int64_t i = 0; i < V; i++) {
        const double d = (double)student[i] - target[i];
        sum += d * d / (2 * V);
        gradient[i] += (float)(scale * d / V);
    }
    return sum;
}

/* On the host, which waits for the queue: a loss of the library must not. */
static void pull_chunk(kd_loss *loss, const kd_vocab_chunk *chunk)
{
    kd_backend *be = chunk->be;
    pull.n_calls++;
    pull.labelled = chunk->labels.data != NULL;
    int32_t *rows = tiny_ints(be, chunk->rows);
    int32_t *labels = pull.labelled ? tiny_ints(be, chunk->labels) : NULL;
    float *student = tiny_values(be, chunk->student), *gradient = tiny_values(be, chunk->d_student);
    double *target = targets(chunk), sum;
    be->ops->download(be, &sum, loss->sums);
    for (int64_t row = 0; row < kd_tensor_rows(chunk->student); row++) {
        if (rows[row] >= 0 && (labels == NULL || counts(labels[row]))) {
            sum += pull_row(student + row * V, target + row * V, kd_loss_scale(loss),
                            gradient + row * V);
        }
    }
    be->ops->upload(be, loss->sums, &sum);
    tiny_write(be, chunk->d_student, gradient);
    free(target);
    free(gradient);
    free(student);
    free(labels);
    free(rows);
}

static double mean_pull(const kd_loss *loss, const double *sums)
{
    return sums[loss->first_sum] / (double)loss->count;
}

static const kd_loss_kind pull_kind = {
    .name = "z",
    .n_sums = 1,
    .plan = NULL,
    .count = count_pull,
    .chunk = pull_chunk,
    .mean = mean_pull,
};

static kd_loss_kind taught_kind; /* the same with a plan */

const kd_loss_kind *__real_kd_loss_kind_at(int i);
const kd_loss_kind *__wrap_kd_loss_kind_at(int i);

const kd_loss_kind *__wrap_kd_loss_kind_at(int i)
{
    if (i != Z) {
        return __real_kd_loss_kind_at(i);
    }
    return pull.is_taught || pull.is_elsewhere ? &taught_kind : &pull_kind;
}

static void init(void)
{
    taught_kind = pull_kind;
    taught_kind.plan = plan_pull;
    cr_assert_str_eq(__real_kd_loss_kind_at(Z)->name, "z");
}

TestSuite(chunk_loss, .init = init);

/* A student with that weight of the loss at hand, and of kd. */
static tiny_train *start_as(kd_dtype compute, double weight, double kd)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.z_weight.value = weight;
    settings.objective.kd_weight.value = kd;
    return tiny_train_create(&kd_model_mixtral, compute, &settings);
}

static kd_step_result losses(tiny_train *t, const kd_batch *batches, int n)
{
    const kd_step_work work = tiny_train_open(t, 0, batches, n);
    const kd_reduce alone = kd_reduce_single();
    kd_step_result r;
    cr_assert_eq(kd_trainer_losses(t->trainer, &work, &t->channel, &alone, &r), KD_OK, "%s",
                 kd_fault_text());
    return r;
}

/* The formula over whole logits. */
static double naive(tiny_train *t, const tiny_batch *batch)
{
    const kd_batch whole = tiny_batch_whole(batch);
    float *student = malloc(TINY_ROWS * V * sizeof *student);
    float *teacher = calloc(TINY_ROWS * V, sizeof *teacher);
    double sum = 0.0, n = 0.0;
    cr_assert_eq(kd_trainer_logits(t->trainer, &whole, student), KD_OK);
    if (pull.is_taught) {
        cr_assert_eq(kd_teacher_logits(t->teacher, &whole, teacher), KD_OK);
    }
    for (int i = 0; i < TINY_ROWS * V; i++) {
        if (counts(batch->labels[i / V])) {
            const double d = (double)student[i] - (double)teacher[i];
            sum += d * d / (2 * V);
            n += 1.0 / V;
        }
    }
    free(teacher);
    free(student);
    return sum / n;
}

static void expect_formula(double kd)
{
    const tiny_batch batch = tiny_batch_create(3);
    const kd_batch whole = tiny_batch_whole(&batch);
    tiny_train *t = start_as(KD_F32, 0.5, kd);
    const kd_step_result r = losses(t, &whole, 1);
    const double wanted = naive(t, &batch);
    cr_assert_str_eq(r.losses[Z].name, "z");
    cr_expect_float_eq(r.losses[Z].raw, wanted, 1e-6 * wanted);
    cr_expect_eq(r.losses[Z].weighted, 0.5 * r.losses[Z].raw);
    cr_expect_eq(r.losses[0].computed, kd > 0.0);
    cr_expect_eq(pull.n_given, pull.is_taught);
    cr_expect(pull.labelled);
    tiny_train_destroy(t);
}

Test(chunk_loss, is_a_mean_over_its_own_rows)
{
    expect_formula(0.7);
}

Test(chunk_loss, reads_the_teachers_logits_if_it_planned_them)
{
    pull.is_taught = true;
    expect_formula(0.7);
}

/* The signal is there for this loss alone: kd has no weight. */
Test(chunk_loss, has_the_teacher_run_for_it_alone)
{
    pull.is_taught = true;
    expect_formula(0.0);
    pull.is_taught = false;
    expect_formula(0.0);
}

static double total(void *user)
{
    tiny_train *t = user;
    return losses(t, &t->whole, 1).loss;
}

static void expect_gradient(const char *what)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    settings.objective.z_weight.value = 0.5;
    tiny_train *t = tiny_train_create(&kd_model_llama, KD_F32, &settings); /* no choice can flip */
    const differences d = {.params = kd_trainer_parameters(t->trainer),
                           .loss = total,
                           .user = t,
                           .stride = 7,
                           .skip = KD_PARAM_ROLE_COUNT};
    (void)total(t);
    differences_check(&d, what);
    tiny_train_destroy(t);
}

Test(chunk_loss, gradients_agree_with_differences)
{
    expect_gradient("without a teacher");
    pull.is_taught = true;
    expect_gradient("with a teacher");
}

static void expect_cut(kd_dtype compute, double tolerance)
{
    tiny_train *t = start_as(compute, 0.5, 0.7);
    kd_batch parts[TINY_BATCH];
    kd_parameters *params = kd_trainer_parameters(t->trainer);
    const kd_step_result whole = losses(t, &t->whole, 1);
    float *wanted = tiny_values(t->be, params->grad);
    tiny_batch_cut(&t->batch, TINY_BATCH, parts);
    pull.n_calls = 0;
    const kd_step_result cut = losses(t, parts, TINY_BATCH);
    float *found = tiny_values(t->be, params->grad);
    cr_expect_eq(pull.n_calls, TINY_BATCH);
    cr_expect_float_eq(cut.losses[Z].raw, whole.losses[Z].raw, tolerance * whole.losses[Z].raw);
    cr_expect_lt(tiny_nmse(found, wanted, params->n_elements), tolerance * tolerance);
    free(found);
    free(wanted);
    tiny_train_destroy(t);
}

Test(chunk_loss, another_cut_into_micro_batches_changes_rounding_alone)
{
    pull.is_taught = true;
    expect_cut(KD_F32, 1e-5);
    expect_cut(KD_BF16, 1e-2);
}

Test(chunk_loss, sees_no_labels_in_a_step_without_them)
{
    const int32_t segments[TINY_ROWS] = {[2] = -1, [3] = -1, [4] = -1, [5] = -1};
    tiny_train *t = start_as(KD_F32, 0.5, 0.7);
    kd_batch bare = t->whole;
    bare.labels = NULL;
    bare.segments = segments;
    const kd_step_result r = losses(t, &bare, 1);
    cr_expect_gt(r.losses[Z].raw, 0.0);
    cr_expect_not(pull.labelled);
    cr_expect_eq(r.n_tokens, TINY_ROWS - 4);
    tiny_train_destroy(t);
}

/* A chunk as of a device that alone knows the labels: one more row, which takes no part. */
static void hear_longer(void *user, const kd_vocab_chunk *chunk)
{
    const kd_vocab_loss *loss = user;
    kd_backend *be = chunk->be;
    const int64_t n = kd_tensor_rows(chunk->student);
    const size_t bytes = (size_t)((n + 1) * V) * sizeof(float);
    int32_t *rows = kd_test_take((size_t)(n + 1) * sizeof *rows);
    float *student = kd_test_take(bytes), *gradient = kd_test_take(bytes);
    kd_vocab_chunk longer = *chunk;
    be->ops->download(be, rows, chunk->rows);
    be->ops->download(be, student, chunk->student);
    be->ops->download(be, gradient, chunk->d_student);
    rows[n] = -1;
    for (int64_t i = 0; i < V; i++) {
        student[n * V + i] = 1e3f;
        gradient[n * V + i] = 0.0f;
    }
    longer.rows = kd_tensor_1d(rows, KD_I32, n + 1);
    longer.student = kd_tensor_2d(student, KD_F32, n + 1, V);
    longer.d_student = kd_tensor_2d(gradient, KD_F32, n + 1, V);
    loss->chunk(loss->user, &longer);
    be->ops->copy(be, chunk->d_student, kd_tensor_2d(gradient, KD_F32, n, V));
    KD_CHECK(kd_backend_wait(be) == KD_OK);
    kd_test_give_back(gradient);
    kd_test_give_back(student);
    kd_test_give_back(rows);
}

static void run_longer(kd_backend *be, const kd_vocab_loss *loss)
{
    kd_vocab_loss longer = *loss;
    longer.chunk = hear_longer;
    longer.user = (void *)(uintptr_t)loss;
    ((late_queue *)(uintptr_t)be->ops)->ops->vocab_loss(be, &longer);
}

/* Without labels it is the number alone that says so. */
Test(chunk_loss, counts_no_row_that_takes_no_part)
{
    const int32_t segments[TINY_ROWS] = {[2] = -1, [3] = -1, [4] = -1, [5] = -1};
    tiny_train *t = start_as(KD_F32, 0.5, 0.0);
    late_queue queue;
    kd_batch bare = t->whole;
    bare.labels = NULL;
    bare.segments = segments;
    const double wanted = losses(t, &bare, 1).losses[Z].raw;
    late_queue_take(&queue, t->be);
    queue.table.vocab_loss = run_longer;
    const double found = losses(t, &bare, 1).losses[Z].raw;
    late_queue_give_back(&queue);
    cr_expect_eq(pull.n_calls, 2);
    cr_expect_eq(found, wanted);
    tiny_train_destroy(t);
}

static struct {
    int n_runs, n_heard, n_taught; /* of vocab_loss: with a chunk tap, with teachers */
} seen;

static void note_loss(kd_backend *be, const kd_vocab_loss *loss)
{
    seen.n_runs++;
    seen.n_heard += loss->chunk != NULL;
    seen.n_taught += loss->n_teachers > 0;
    ((late_queue *)(uintptr_t)be->ops)->ops->vocab_loss(be, loss);
}

Test(chunk_loss, costs_nothing_at_a_weight_of_zero)
{
    pull.is_taught = true;
    tiny_train *t = start_as(KD_F32, 0.0, 0.0);
    late_queue queue;
    late_queue_take(&queue, t->be);
    queue.table.vocab_loss = note_loss;
    const kd_step_result r = losses(t, &t->whole, 1);
    late_queue_give_back(&queue);
    cr_expect_not(r.losses[Z].computed);
    cr_expect_eq(seen.n_runs, 1);
    cr_expect_eq(seen.n_heard, 0);
    cr_expect_eq(seen.n_taught, 0);
    cr_expect_eq(pull.n_calls, 0);
    cr_expect_eq(t->n_teacher_blocks, 0);
    tiny_train_destroy(t);
}

/* Messages, decoder and memory are there for what was planned. */
Test(chunk_loss, a_value_that_asks_for_another_signal_is_refused_while_training_runs)
{
    pull.is_taught = true;
    tiny_train *t = start_as(KD_F32, 0.5, 0.7);
    tiny_objective other;
    tiny_objective_init(&other, 0.7, 0.3, 3.0);
    cr_expect_eq(kd_trainer_set_objective(t->trainer, &other.message), KD_OK);
    pull.is_elsewhere = true;
    kd_fault_quiet(1);
    cr_expect_eq(kd_trainer_set_objective(t->trainer, &other.message), KD_ERR_STATE);
    EXPECT_FAULT("asks teachers.0 for another signal while training runs");
    tiny_train_destroy(t);
}
