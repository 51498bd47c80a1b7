/*
 * vocab_rows.c - the losses of the rows of one chunk, and their gradients by its logits.
 *
 * Each row is passed over three times: its maxima, its exponentials (kept, so that none is
 * computed twice) with their sums, and the divergence with the gradient. A row and its
 * exponentials stay in the cache between the passes.
 *
 * Several teachers become one first, whose logits are T log p_T: its softmax at T is p_T.
 */
#include "tensor/cpu/vocab_rows.h"

#include <math.h>

typedef struct rows_args {
    const kd_vocab_rows *rows;
    float *memory;     /* (parts, LANE_ROWS, V): exponentials of a row and the teachers' mixture */
    int64_t n_columns; /* V                                                                      */
    int n_mixed;       /* teachers with a share                                                  */
    int only;          /* one of them                                                            */
    bool shared;       /* T is 1 and nothing is masked: both losses use one softmax              */
} rows_args;

enum { HARD_ROW, TEACHER_ROW, STUDENT_ROW, MIXTURE_ROW, LANE_ROWS };

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

/* Masked columns, at -inf or the least float, get exactly 0, which kd_exp never gives. */
KD_INLINE row_softmax softmax_of(float *exps, const float *x, int64_t n, float max, float inv_t)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        const float at = (x[i] - max) * inv_t;
        const float e = at < -87.0f ? 0.0f : kd_exp(at);
        exps[i] = e;
        sum += e;
    }
    return (row_softmax){exps, 1.0f / sum, (double)max * (double)inv_t + log((double)sum)};
}

/* log(1 + y) for 0 <= y <= 1 as 2 artanh(s), s = y / (2 + y) <= 1/3, whose series ends at s^15. */
KD_INLINE float log_1p(float y)
{
    const float s = y / (2.0f + y), s2 = s * s;
    float p = 1.0f / 15.0f;
    p = p * s2 + 1.0f / 13.0f;
    p = p * s2 + 1.0f / 11.0f;
    p = p * s2 + 1.0f / 9.0f;
    p = p * s2 + 1.0f / 7.0f;
    p = p * s2 + 1.0f / 5.0f;
    p = p * s2 + 1.0f / 3.0f;
    return 2.0f * s + 2.0f * s * s2 * p;
}

/* log(e^a + e^b); -inf is the log of 0. */
KD_INLINE float log_add(float a, float b)
{
    const float high = a > b ? a : b, low = a > b ? b : a;
    const float sum = high + log_1p(kd_exp(low - high));
    return high == -INFINITY ? high : sum;
}

/* The mixture of the teachers with a share, as logits: T log sum of share * softmax(z / T). Returns
 * whether each of them has a column left. */
KD_INLINE bool mix_teachers(const rows_args *a, int64_t row, float *mixture, float *exps)
{
    const kd_vocab_rows *r = a->rows;
    const int64_t n = r->n_vocab;
    const float inv_t = 1.0f / r->temperature;
    bool first = true, whole = true;
    for (int t = 0; t < r->n_teachers; t++) {
        if (r->shares[t] == 0.0) {
            continue;
        }
        const float *x = kd_row(r->teachers[t], row);
        const float max = row_max(x, n);
        const row_softmax p = softmax_of(exps, x, n, max, inv_t);
        const float shift = (float)(log(r->shares[t]) - p.lse);
        const float before = first ? 0.0f : 1.0f;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            const float log_p = x[i] * inv_t + shift;
            mixture[i] = before == 0.0f ? log_p : log_add(mixture[i], log_p);
        }
        first = false;
        whole = whole && max != -INFINITY;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        mixture[i] *= r->temperature;
    }
    return whole;
}

/* sum p (log p - log q), with the two log-sums taken off each difference so that little cancels. */
KD_INLINE double forward_kl(const float *student,
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
        const float term = p->exps[i] * ((teacher[i] - student[i]) * inv_t - shift);
        sum += p->exps[i] == 0.0f ? 0.0f : term;
    }
    return (double)sum * (double)p->scale;
}

/*
 * Where the gradient of a row comes from: h hard[i], and below n_vocab a q[i] - b p[i] as well. That
 * is room for every divergence D(p, q): by the student's logits it is (f_i - q_i sum f) / T with
 * f_i = q_i dD/dq_i, which may take the place of p.
 */
typedef struct row_gradient {
    const float *hard, *q, *p;
    float h, a, b;
    int64_t n_vocab; /* 0: no divergence */
    bool whole;
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

/* Forms the teachers' softmax and, unless it is the hard one, the student's; returns the divergence.
 * grad->whole: every teacher has a column left. */
KD_INLINE double add_divergence(const rows_args *a,
                                int64_t row,
                                float *memory,
                                float max,
                                const row_softmax *hard,
                                row_gradient *grad)
{
    const kd_vocab_rows *r = a->rows;
    const int64_t v = a->n_columns, n = r->n_vocab;
    const float *student = kd_row(r->student, row);
    const float *teacher = kd_row(r->teachers[a->only], row);
    const float inv_t = 1.0f / r->temperature;
    bool whole = true;
    if (a->n_mixed > 1) {
        whole = mix_teachers(a, row, memory + MIXTURE_ROW * v, memory + TEACHER_ROW * v);
        teacher = memory + MIXTURE_ROW * v;
    }
    const float p_max = row_max(teacher, n);
    const row_softmax p = softmax_of(memory + TEACHER_ROW * v, teacher, n, p_max, inv_t);
    row_softmax q = *hard;
    if (!a->shared) { /* masked columns may hold the largest logit of all */
        const float q_max = n == v ? max : row_max(student, n);
        q = softmax_of(memory + STUDENT_ROW * v, student, n, q_max, inv_t);
    }
    const float weight = r->kd_scale * inv_t;
    grad->q = q.exps;
    grad->p = p.exps;
    grad->n_vocab = n;
    grad->whole = whole && p_max != -INFINITY;
    switch (r->divergence) {
    case KD__SOFT_TARGET__DIVERGENCE__FORWARD_KL:
        grad->a = weight * q.scale;
        grad->b = weight * p.scale;
        return forward_kl(student, teacher, &q, &p, n, inv_t);
    case _KD__SOFT_TARGET__DIVERGENCE_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a divergence of unknown kind");
}

KD_INLINE void loss_row(const rows_args *a, int64_t row, float *memory, kd_dtype dtype)
{
    const kd_vocab_rows *r = a->rows;
    const float *student = kd_row(r->student, row);
    const int64_t label = r->labels != NULL ? r->labels[row] : -1;
    const float hard_scale = label >= 0 ? r->hard_scale : 0.0f;
    const float max = row_max(student, a->n_columns);
    double *sums = r->row_sums + row * KD_VOCAB_SUMS;
    const row_softmax hard =
        softmax_of(memory + HARD_ROW * a->n_columns, student, a->n_columns, max, 1.0f);
    row_gradient grad = {.hard = hard.exps,
                         .q = hard.exps,
                         .p = hard.exps,
                         .h = hard_scale * hard.scale,
                         .whole = true};
    const double kd = a->n_mixed > 0 ? add_divergence(a, row, memory, max, &hard, &grad) : 0.0;

    sums[KD_VOCAB_SUM_KD] = grad.whole ? kd : (double)NAN;
    sums[KD_VOCAB_SUM_HARD] = label >= 0 ? hard.lse - (double)student[label] : 0.0;
    sums[KD_VOCAB_SUM_CORRECT] = label >= 0 && is_first_largest(student, label, max) ? 1.0 : 0.0;
    sums[KD_VOCAB_SUM_ROWS] = 1.0;
    sums[KD_VOCAB_SUM_EMPTY] = grad.whole ? 0.0 : 1.0;
    if (r->slopes.data != NULL) { /* last: the row of logits may be the row of slopes */
        void *d = kd_row(r->slopes, row);
        write_gradient(d, dtype, &grad, a->n_columns);
        if (label >= 0) {
            const float slope =
                label < grad.n_vocab ? slope_both(&grad, label) : slope_hard(&grad, label);
            kd_put(d, label, dtype, slope - hard_scale);
        }
    }
}

static void loss_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const rows_args *a = args;
    float *memory = a->memory + lane * (LANE_ROWS * a->n_columns);
    for (int64_t row = begin; row < end; row++) {
        if (a->rows->slopes.dtype == KD_BF16) {
            loss_row(a, row, memory, KD_BF16);
        } else {
            loss_row(a, row, memory, KD_F32);
        }
    }
}

void KD_KERNEL(vocab_rows)(kd_backend *be, const kd_vocab_rows *rows)
{
    rows_args a = {
        .rows = rows,
        .n_columns = kd_tensor_columns(rows->student),
        .shared = rows->temperature == 1.0f && rows->n_vocab == kd_tensor_columns(rows->student),
    };
    for (int t = 0; t < rows->n_teachers; t++) {
        a.n_mixed += rows->shares[t] != 0.0;
        a.only = rows->shares[t] != 0.0 ? t : a.only;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    a.memory = kd_cpu_scratch(be, (size_t)be->n_threads * LANE_ROWS * (size_t)a.n_columns *
                                      sizeof *a.memory);
    if (a.memory != NULL) {
        (void)kd_parallel_rows(be, kd_tensor_rows(rows->student), kd_grain(4 * a.n_columns),
                               loss_rows, &a);
    }
    kd_cpu_scratch_rewind(be, mark);
}
