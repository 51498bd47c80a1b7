#include <math.h>
#include <string.h>

#include "tensor/cpu/cpu.h"

/*
 * Each row is passed over three times: its maxima, its exponentials (kept, so that none is
 * computed twice) with their sums, and the divergence with the gradient. A row and its
 * exponentials stay in the cache between the passes.
 */

typedef struct loss_args {
    const kd_vocab_rows *rows;
    double *row_sums;  /* (R, KD_VOCAB_SUMS): added in the order of rows afterwards */
    float *exps;       /* (parts, 3, V) of the row at work                          */
    int64_t n_columns; /* V                                                        */
    bool with_kd;
    bool shared; /* T is 1 and nothing is masked: both losses use one softmax */
} loss_args;

/* A softmax over the first n columns of a row of logits / T, not divided by its sum. */
typedef struct row_softmax {
    float *exps;
    float scale; /* 1 / sum                               */
    double lse;  /* log of the sum, with the shift put back */
} row_softmax;

KD_INLINE float row_max(const float *x, int64_t n)
{
    float max = x[0];
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < n; i++) {
        max = x[i] > max ? x[i] : max;
    }
    return max;
}

KD_INLINE row_softmax softmax_of(float *exps, const float *x, int64_t n, float max, float inv_t)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const float e = kd_exp((x[i] - max) * inv_t);
        exps[i] = e;
        sum += e;
    }
    return (row_softmax){exps, 1.0f / sum, (double)max * (double)inv_t + log((double)sum)};
}

/* sum p (log p - log q), with the two log-sums taken off each difference so that little cancels. */
KD_INLINE double divergence(const float *student,
                            const float *teacher,
                            const row_softmax *q,
                            const row_softmax *p,
                            int64_t n,
                            float inv_t)
{
    const float shift = (float)(p->lse - q->lse);
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        sum += p->exps[i] * ((teacher[i] - student[i]) * inv_t - shift);
    }
    return (double)sum * (double)p->scale;
}

/* Where the gradient of a row comes from: h hard[i], and below n_vocab a q[i] - b p[i] as well. */
typedef struct row_gradient {
    const float *hard, *q, *p;
    float h, a, b;
    int64_t n_vocab; /* 0: no divergence */
} row_gradient;

KD_INLINE float slope_both(const row_gradient *g, int64_t i)
{
    return g->h * g->hard[i] + (g->a * g->q[i] - g->b * g->p[i]);
}

KD_INLINE float slope_hard(const row_gradient *g, int64_t i)
{
    return g->h * g->hard[i];
}

KD_INLINE void write_gradient(void *d, kd_dtype dtype, const row_gradient *grad, int64_t n)
{
    const row_gradient g = *grad;
#pragma omp simd
    for (int64_t i = 0; i < g.n_vocab; i++) {
        kd_put(d, i, dtype, slope_both(&g, i));
    }
#pragma omp simd
    for (int64_t i = g.n_vocab; i < n; i++) {
        kd_put(d, i, dtype, slope_hard(&g, i));
    }
}

/* Whether the label is the first of the largest logits. */
static bool is_first_largest(const float *x, int64_t label, float max)
{
    int64_t first = 0;
    if (x[label] != max) {
        return false;
    }
    while (x[first] != max) {
        first++;
    }
    return first == label;
}

/* Forms the teacher's softmax and, unless it is the hard one, the student's; returns the raw loss. */
KD_INLINE double add_divergence(const loss_args *a,
                                int64_t row,
                                float *exps,
                                float max,
                                const row_softmax *hard,
                                row_gradient *grad)
{
    const kd_vocab_rows *r = a->rows;
    const float *student = kd_row(r->student, row), *teacher = kd_row(r->teacher, row);
    const float inv_t = 1.0f / r->temperature;
    const row_softmax p =
        softmax_of(exps + a->n_columns, teacher, r->n_vocab, row_max(teacher, r->n_vocab), inv_t);
    row_softmax q = *hard;
    if (!a->shared) { /* masked columns may hold the largest logit of all */
        const float q_max = r->n_vocab == a->n_columns ? max : row_max(student, r->n_vocab);
        q = softmax_of(exps + 2 * a->n_columns, student, r->n_vocab, q_max, inv_t);
    }
    const float weight = r->kd_weight * r->kd_scale * inv_t;
    grad->q = q.exps;
    grad->p = p.exps;
    grad->a = weight * q.scale;
    grad->b = weight * p.scale;
    grad->n_vocab = r->n_vocab;
    return (double)r->kd_scale * divergence(student, teacher, &q, &p, r->n_vocab, inv_t);
}

KD_INLINE void loss_row(const loss_args *a, int64_t row, float *exps, kd_dtype dtype)
{
    const kd_vocab_rows *r = a->rows;
    const float *student = kd_row(r->student, row);
    const int64_t label = ((const int32_t *)r->labels.data)[row];
    const float max = row_max(student, a->n_columns);
    double *sums = a->row_sums + row * KD_VOCAB_SUMS;
    const row_softmax hard = softmax_of(exps, student, a->n_columns, max, 1.0f);
    row_gradient grad = {
        .hard = hard.exps, .q = hard.exps, .p = hard.exps, .h = r->hard_weight * hard.scale};
    const double kd = a->with_kd ? add_divergence(a, row, exps, max, &hard, &grad) : 0.0;

    if (r->d_logits.data != NULL) {
        void *d = kd_row(r->d_logits, row);
        const float slope =
            label < grad.n_vocab ? slope_both(&grad, label) : slope_hard(&grad, label);
        write_gradient(d, dtype, &grad, a->n_columns);
        kd_put(d, label, dtype, slope - r->hard_weight);
    }
    sums[KD_VOCAB_SUM_KD] = kd;
    sums[KD_VOCAB_SUM_HARD] = hard.lse - (double)student[label];
    sums[KD_VOCAB_SUM_CORRECT] = is_first_largest(student, label, max) ? 1.0 : 0.0;
    sums[KD_VOCAB_SUM_ROWS] = 1.0;
}

/* A row without a label adds nothing and has no gradient. */
static void skip_row(const loss_args *a, int64_t row)
{
    const kd_tensor d = a->rows->d_logits;
    memset(a->row_sums + row * KD_VOCAB_SUMS, 0, KD_VOCAB_SUMS * sizeof(double));
    if (d.data != NULL) {
        memset(kd_row(d, row), 0, (size_t)a->n_columns * kd_dtype_bytes(d.dtype));
    }
}

static void loss_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const loss_args *a = args;
    float *exps = a->exps + lane * (3 * a->n_columns);
    for (int64_t row = begin; row < end; row++) {
        const int32_t label = ((const int32_t *)a->rows->labels.data)[row];
        if (label == KD_LABEL_IGNORED) {
            skip_row(a, row);
        } else if (a->rows->d_logits.dtype == KD_BF16) {
            loss_row(a, row, exps, KD_BF16);
        } else {
            loss_row(a, row, exps, KD_F32);
        }
    }
}

static void check_rows(const kd_vocab_rows *r, int64_t n_rows, int64_t n_columns)
{
    const int32_t *labels = r->labels.data;
    KD_CHECK(r->student.dtype == KD_F32 && r->labels.dtype == KD_I32 && r->sums.dtype == KD_F64);
    KD_CHECK(kd_tensor_elements(r->labels) == n_rows && r->temperature > 0.0f);
    KD_CHECK(r->d_logits.data == NULL || (kd_tensor_rows(r->d_logits) == n_rows &&
                                          kd_tensor_columns(r->d_logits) == n_columns));
    if (r->teacher.data != NULL) {
        KD_CHECK(r->teacher.dtype == KD_F32 && kd_tensor_rows(r->teacher) == n_rows);
        KD_CHECK(r->n_vocab >= 1 && r->n_vocab <= n_columns);
        KD_CHECK(r->n_vocab <= kd_tensor_columns(r->teacher));
    }
    for (int64_t row = 0; row < n_rows; row++) {
        KD_CHECK(labels[row] == KD_LABEL_IGNORED || (labels[row] >= 0 && labels[row] < n_columns));
    }
}

void KD_KERNEL(vocab_loss)(kd_backend *be, const kd_vocab_rows *rows)
{
    const int64_t n_rows = kd_tensor_rows(rows->student);
    const int64_t n_columns = kd_tensor_columns(rows->student);
    check_rows(rows, n_rows, n_columns);
    if (be->fault) {
        return;
    }
    const size_t sums_bytes = (size_t)n_rows * KD_VOCAB_SUMS * sizeof(double);
    const size_t exps_bytes = (size_t)be->n_threads * 3 * (size_t)n_columns * sizeof(float);
    char *scratch = kd_cpu_scratch(be, sums_bytes + exps_bytes);
    if (scratch == NULL) {
        return;
    }
    const loss_args a = {
        .rows = rows,
        .row_sums = (double *)(void *)scratch,
        .exps = (float *)(void *)(scratch + sums_bytes),
        .n_columns = n_columns,
        .with_kd = rows->teacher.data != NULL && rows->kd_weight != 0.0f,
        .shared = rows->temperature == 1.0f && rows->n_vocab == n_columns,
    };
    (void)kd_parallel_rows(be, n_rows, kd_grain(4 * n_columns), loss_rows, &a);
    double *sums = rows->sums.data;
    for (int64_t i = 0; i < n_rows * KD_VOCAB_SUMS; i++) {
        sums[i % KD_VOCAB_SUMS] += a.row_sums[i];
    }
}
