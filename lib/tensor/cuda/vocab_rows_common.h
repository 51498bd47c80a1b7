/*
 * vocab_rows_common.h - what the kernels of a chunk's losses have in common: softmaxes while they are summed, what a
 * column adds to its row's sums, the gradient there, and what a row leaves. They differ in where the columns come
 * from and who adds the sums of threads. Of vocab_rows.cu and vocab_rows_cluster.cu.
 *
 * Exponentials and logarithms are to the base 2, which the device has: e^(x / T) = 2^(x log2(e) / T). The factor of
 * the exponent is a softmax's unit.
 */
#ifndef KD_TENSOR_CUDA_VOCAB_ROWS_COMMON_H
#define KD_TENSOR_CUDA_VOCAB_ROWS_COMMON_H

#include <cfloat>

#include "tensor/cuda/vocab_rows.h"

static constexpr float KD_LOG2_E = 1.44269504f;
static constexpr double KD_LN_2 = 0.69314718055994530942;

struct kd_vocab_args {
    const float *student, *teacher;
    int64_t student_stride, teacher_stride, slopes_stride, sums_stride, n_rows;
    const int32_t *rows, *labels, *empty;
    double *row_sums;
    int n_columns, n_vocab;   /* V; 0 without kd                               */
    float unit, teacher_unit; /* of the student at T, of the teacher           */
    float kd_scale;           /* over T                                        */
    float hard_scale;         /* 0 without labels                              */
    bool shared;              /* T is 1 and nothing is masked: both losses use one softmax */
    bool vectors;             /* 16 bytes may be moved at once in every row                */
};

/* ---- softmaxes ---- */

/*
 * A softmax while it is summed: the largest logit so far, and the sum of e^((x - max) / T). It begins
 * at the least float: masked columns, at -inf, then add 0, and a sum of 0 says that there was no other.
 */
struct kd_softmax {
    float max, sum;
};

KD_FN kd_softmax kd_softmax_empty()
{
    return {-FLT_MAX, 0.0f};
}

template <int W> KD_FN void kd_softmax_add(kd_softmax &s, const float (&x)[W], float unit)
{
    float max = s.max;
#pragma unroll
    for (int j = 0; j < W; j++) {
        max = x[j] > max ? x[j] : max;
    }
    if (max > s.max) {
        s.sum *= exp2f((s.max - max) * unit);
        s.max = max;
    }
#pragma unroll
    for (int j = 0; j < W; j++) {
        s.sum += exp2f((x[j] - max) * unit);
    }
}

/* What s has summed, with a largest logit that is not below its own. */
KD_FN float kd_softmax_sum_at(kd_softmax s, float max, float unit)
{
    return s.sum * exp2f((s.max - max) * unit);
}

/* ---- the first reading: sums of a row ---- */

struct kd_vocab_label {
    int column; /* -1: none */
    float logit;
};

/* A label that is no column makes the sum of hard NaN: it is only here that it can be told. */
KD_FN float kd_vocab_label_logit(const kd_vocab_args &a, int64_t row, int label)
{
    return label >= 0 && label < a.n_columns ? a.student[row * a.student_stride + label] : NAN;
}

struct kd_vocab_row_sums {
    kd_softmax hard, q, p; /* of the student at 1 and at T, and of the teacher   */
    bool beaten;           /* the label is not the first of the largest logits   */
};

KD_FN kd_vocab_row_sums kd_vocab_no_sums(const kd_vocab_label &label)
{
    const kd_softmax none = kd_softmax_empty();
    return {none, none, none, label.column < 0 || label.logit != label.logit};
}

/* Columns i to i + W that the student alone knows. */
template <int W>
KD_FN void
kd_vocab_add(kd_vocab_row_sums &s, const kd_vocab_label &label, int i, const float (&x)[W])
{
    kd_softmax_add(s.hard, x, KD_LOG2_E);
#pragma unroll
    for (int j = 0; j < W; j++) {
        s.beaten = s.beaten || x[j] > label.logit || (x[j] == label.logit && i + j < label.column);
    }
}

/* The same, with the teacher's logits z. */
template <int W>
KD_FN void kd_vocab_add_taught(kd_vocab_row_sums &s,
                               const kd_vocab_args &a,
                               const kd_vocab_label &label,
                               int i,
                               const float (&x)[W],
                               const float (&z)[W])
{
    kd_vocab_add(s, label, i, x);
    kd_softmax_add(s.p, z, a.teacher_unit);
    if (!a.shared) {
        kd_softmax_add(s.q, x, a.unit);
    }
}

/* ---- the second reading: divergence and gradient of a row ---- */

/*
 * Where the gradient of a row comes from: h hard[i], and below n_vocab a q[i] - b p[i] as well, with
 * exponentials that are not divided by their sums. That is room for every divergence D(p, q): by the
 * student's logits it is (f_i - q_i sum f) / T with f_i = q_i dD/dq_i, which may take the place of p.
 */
struct kd_vocab_gradient {
    float h, a, b;
    float at_label;     /* taken off there        */
    float log_quotient; /* log2(sum p / sum q)    */
};

KD_FN kd_vocab_gradient kd_vocab_gradient_of(const kd_vocab_args &a, const kd_vocab_row_sums &s)
{
    kd_vocab_gradient g; /* sums are 1 to V: a quick division does */
    g.h = __fdividef(a.hard_scale, s.hard.sum);
    g.a = __fdividef(a.kd_scale, s.q.sum);
    g.b = __fdividef(a.kd_scale, s.p.sum);
    g.at_label = a.hard_scale;
    g.log_quotient = log2f(s.p.sum / s.q.sum);
    return g;
}

template <int W>
KD_FN void kd_vocab_take_label(float (&d)[W], int i, int label, const kd_vocab_gradient &g)
{
    if (label >= i && label < i + W) {
#pragma unroll
        for (int j = 0; j < W; j++) {
            d[j] -= i + j == label ? g.at_label : 0.0f;
        }
    }
}

/* x becomes the gradient in columns that the student alone knows. */
template <int W>
KD_FN void kd_vocab_slope(float (&x)[W],
                          const kd_vocab_row_sums &s,
                          const kd_vocab_gradient &g,
                          int i,
                          int label)
{
#pragma unroll
    for (int j = 0; j < W; j++) {
        x[j] = g.h * exp2f((x[j] - s.hard.max) * KD_LOG2_E);
    }
    kd_vocab_take_label(x, i, label, g);
}

/*
 * The same in columns that all know, and these columns' part of KL(p || q) = sum p (log p - log q), to
 * the base 2 and not yet divided by the sum of p. Each logarithm is a logit less its largest, over T, less
 * that of the sum: of the two sums the quotient is taken, so that nothing cancels where p and q are near
 * each other.
 */
template <int W>
KD_FN float kd_vocab_slope_taught(float (&x)[W],
                                  const float (&z)[W],
                                  const kd_vocab_args &a,
                                  const kd_vocab_row_sums &s,
                                  const kd_vocab_gradient &g,
                                  int i,
                                  int label)
{
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < W; j++) {
        const float at_q = (x[j] - s.q.max) * a.unit;
        const float at_p = (z[j] - s.p.max) * a.teacher_unit;
        const float q = exp2f(at_q), p = exp2f(at_p);
        const float hard = a.shared ? q : exp2f((x[j] - s.hard.max) * KD_LOG2_E);
        sum += p == 0.0f ? 0.0f : p * (at_p - at_q - g.log_quotient);
        x[j] = g.h * hard + (g.a * q - g.b * p);
    }
    kd_vocab_take_label(x, i, label, g);
    return sum;
}

/* ---- what a row leaves ---- */

/* The sums of a row but for kd's; by one thread. */
KD_FN void kd_vocab_write_sums(const kd_vocab_args &a,
                               int64_t row,
                               const kd_vocab_row_sums &s,
                               float label_logit)
{
    double *out = a.row_sums + row;
    const double log_sum = static_cast<double>(s.hard.max) + log(static_cast<double>(s.hard.sum));
    out[KD_VOCAB_SUM_HARD * a.sums_stride] =
        a.labels != nullptr ? log_sum - static_cast<double>(label_logit) : 0.0;
    out[KD_VOCAB_SUM_CORRECT * a.sums_stride] = s.beaten ? 0.0 : 1.0;
    out[KD_VOCAB_SUM_ROWS * a.sums_stride] = 1.0;
}

/* Those of kd, from the sum over columns; by one thread. */
KD_FN void kd_vocab_write_kd(const kd_vocab_args &a, int64_t row, float kl, float p_sum)
{
    double *out = a.row_sums + row;
    const bool empty = p_sum == 0.0f || (a.empty != nullptr && a.empty[row] != 0);
    out[KD_VOCAB_SUM_KD * a.sums_stride] =
        empty ? static_cast<double>(NAN)
              : static_cast<double>(kl) * KD_LN_2 / static_cast<double>(p_sum);
    out[KD_VOCAB_SUM_EMPTY * a.sums_stride] = empty ? 1.0 : 0.0;
}

/* Those of a row that takes no part; by the first threads of a block. */
KD_FN void kd_vocab_write_no_sums(const kd_vocab_args &a, int64_t row)
{
    if (threadIdx.x < KD_VOCAB_SUMS) {
        a.row_sums[threadIdx.x * a.sums_stride + row] = 0.0;
    }
}

/*
 * The kernel of vocab_rows_cluster.cu in the plain one's place, with a teacher. False, with nothing queued:
 * rows do not suit it, or the device has not the room.
 */
bool kd_cuda_vocab_rows_cluster(kd_backend *be, const kd_vocab_args &args, kd_tensor slopes);

#endif
