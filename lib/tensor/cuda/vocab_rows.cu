/*
 * vocab_rows.cu - the losses of the rows of one chunk, and their gradients by its logits.
 *
 * Idea: a block a row, which is read twice. First all softmaxes are summed as one goes, each with
 * the largest logit so far; then, with the sums known, the divergence and the gradient are formed
 * column by column. A thread meets the same columns both times, so the gradient may take the place
 * of the logits.
 */
#include "tensor/cuda/vocab_rows.h"

#include <cfloat>

#include "base/log.h"
#include "tensor/cuda/row.h"

enum { THREADS = 256 };

/*
 * A softmax while it is summed: the largest logit so far, and the sum of exp((x - max) / T). It
 * begins at the least float: masked columns, at -inf, then add 0, and a sum of 0 says that there
 * was no other.
 */
struct running {
    float max, sum;
};

#define KD_NOTHING_YET                                                                             \
    running                                                                                        \
    {                                                                                              \
        -FLT_MAX, 0.0f                                                                             \
    }

template <int W> KD_FN void take(running &r, const float (&x)[W], float inv_t)
{
    float max = r.max;
#pragma unroll
    for (int j = 0; j < W; j++) {
        max = x[j] > max ? x[j] : max;
    }
    if (max > r.max) {
        r.sum *= expf((r.max - max) * inv_t);
        r.max = max;
    }
#pragma unroll
    for (int j = 0; j < W; j++) {
        r.sum += expf((x[j] - max) * inv_t);
    }
}

/* That of all threads of the block. */
KD_FN running join(running mine, float inv_t)
{
    const float max = kd_block_max(mine.max);
    return {max, kd_block_sum(mine.sum * expf((mine.max - max) * inv_t))};
}

/* ---- columns of a row ---- */

template <int W> using width = std::integral_constant<int, W>;

/* f(width<W>, i) for columns i to i + W of [first, end), by all threads of the block. */
template <class F> KD_FN void each_column(int first, int end, bool vectors, F f)
{
    const bool fits = vectors && first % KD_ROW_WIDE == 0;
    const int middle = fits ? first + (end - first) / KD_ROW_WIDE * KD_ROW_WIDE : first;
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = first + thread * KD_ROW_WIDE; i < middle; i += THREADS * KD_ROW_WIDE) {
        f(width<KD_ROW_WIDE>{}, i);
    }
    for (int i = middle + thread; i < end; i += THREADS) {
        f(width<1>{}, i);
    }
}

/* ---- the losses of a row ---- */

struct losses_args {
    const float *student, *teacher;
    int64_t student_stride, teacher_stride, slopes_stride, sums_stride;
    const int32_t *rows, *labels, *empty;
    double *row_sums;
    int n_columns, n_vocab; /* V; 0 without kd                                        */
    float inv_t, teacher_inv_t, kd_scale, hard_scale;
    bool shared;  /* T is 1 and nothing is masked: both losses use one softmax        */
    bool vectors; /* 16 bytes may be moved at once in every row                       */
};

/* A row as its block sees it. */
template <class T> struct row_at {
    const float *student, *teacher;
    T *slopes; /* or NULL */
    int label; /* -1: none */
    float label_logit;
};

/* What the first reading gives: softmaxes of the student at 1 and at T, and of the teacher. */
struct row_sums {
    running hard, q, p;
    bool is_correct; /* the label is the first of the largest logits */
};

/* Whether a column is the prediction rather than the label. */
template <int W> KD_FN bool beats(const float (&x)[W], int i, int label, float label_logit)
{
    bool any = false;
#pragma unroll
    for (int j = 0; j < W; j++) {
        any = any || x[j] > label_logit || (x[j] == label_logit && i + j < label);
    }
    return any;
}

template <bool taught, class T> KD_FN row_sums read_row(const losses_args &a, const row_at<T> &row)
{
    running hard = KD_NOTHING_YET, q = hard, p = hard;
    bool beaten = row.label < 0 || row.label_logit != row.label_logit;
    if (taught) {
        each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
            float x[w.value], z[w.value];
            kd_load_vector(x, row.student + i);
            kd_load_vector(z, row.teacher + i);
            take(hard, x, 1.0f);
            take(p, z, a.teacher_inv_t);
            if (!a.shared) {
                take(q, x, a.inv_t);
            }
            beaten = beaten || beats(x, i, row.label, row.label_logit);
        });
    }
    each_column(a.n_vocab, a.n_columns, a.vectors, [&](auto w, int i) {
        float x[w.value];
        kd_load_vector(x, row.student + i);
        take(hard, x, 1.0f);
        beaten = beaten || beats(x, i, row.label, row.label_logit);
    });
    hard = join(hard, 1.0f);
    if (taught) {
        p = join(p, a.teacher_inv_t);
        q = a.shared ? hard : join(q, a.inv_t);
    }
    return {hard, q, p, kd_block_max(beaten ? 1.0f : 0.0f) == 0.0f};
}

/*
 * Where the gradient of a row comes from: h hard[i], and below n_vocab a q[i] - b p[i] as well,
 * with exponentials that are not divided by their sums. That is room for every divergence D(p, q):
 * by the student's logits it is (f_i - q_i sum f) / T with f_i = q_i dD/dq_i, which may take the
 * place of p.
 */
struct row_gradient {
    float h, a, b;
    float at_label; /* taken off there */
};

/* d = gradient, minus what belongs to the label's column. */
template <int W, class T>
KD_FN void put(const row_at<T> &row, int i, float (&d)[W], const row_gradient &g)
{
#pragma unroll
    for (int j = 0; j < W; j++) {
        d[j] -= i + j == row.label ? g.at_label : 0.0f;
    }
    kd_store_vector(row.slopes + i, d);
}

/*
 * KL(p || q) = sum p (log p - log q), and its gradient with that of hard, over the columns that all
 * know. Each logarithm is a logit less its largest, over T, less that of the sum: of the two sums
 * the quotient is taken, so that nothing cancels where p and q are near each other.
 */
template <class T>
KD_FN double
forward_kl(const losses_args &a, const row_at<T> &row, const row_sums &s, const row_gradient &g)
{
    const float log_quotient = logf(s.p.sum / s.q.sum);
    float sum = 0.0f;
    each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
        float x[w.value], z[w.value];
        kd_load_vector(x, row.student + i);
        kd_load_vector(z, row.teacher + i);
#pragma unroll
        for (int j = 0; j < w.value; j++) {
            const float at_q = (x[j] - s.q.max) * a.inv_t;
            const float at_p = (z[j] - s.p.max) * a.teacher_inv_t;
            const float q = expf(at_q), p = expf(at_p);
            const float hard = a.shared ? q : expf(x[j] - s.hard.max);
            sum += p == 0.0f ? 0.0f : p * (at_p - at_q - log_quotient);
            x[j] = g.h * hard + (g.a * q - g.b * p);
        }
        if (row.slopes != nullptr) {
            put(row, i, x, g);
        }
    });
    return static_cast<double>(kd_block_sum(sum)) / static_cast<double>(s.p.sum);
}

/* The gradient in the columns that kd does not see. */
template <class T>
KD_FN void write_hard(const losses_args &a, const row_at<T> &row, float max, const row_gradient &g)
{
    each_column(a.n_vocab, a.n_columns, a.vectors, [&](auto w, int i) {
        float x[w.value];
        kd_load_vector(x, row.student + i);
#pragma unroll
        for (int j = 0; j < w.value; j++) {
            x[j] = g.h * expf(x[j] - max);
        }
        put(row, i, x, g);
    });
}

template <class T> KD_FN void write_zeros(const losses_args &a, T *slopes)
{
    each_column(0, a.n_columns, a.vectors, [&](auto w, int i) {
        float zeros[w.value] = {};
        kd_store_vector(slopes + i, zeros);
    });
}

/* By one thread. */
KD_FN void write_sums(const losses_args &a,
                      int64_t row,
                      const row_sums &s,
                      double kd,
                      bool empty,
                      const float *label_logit)
{
    double *out = a.row_sums + row;
    const double lse = static_cast<double>(s.hard.max) + log(static_cast<double>(s.hard.sum));
    out[KD_VOCAB_SUM_KD * a.sums_stride] = empty ? static_cast<double>(NAN) : kd;
    out[KD_VOCAB_SUM_HARD * a.sums_stride] =
        label_logit != nullptr ? lse - static_cast<double>(*label_logit) : 0.0;
    out[KD_VOCAB_SUM_CORRECT * a.sums_stride] = s.is_correct ? 1.0 : 0.0;
    out[KD_VOCAB_SUM_ROWS * a.sums_stride] = 1.0;
    out[KD_VOCAB_SUM_EMPTY * a.sums_stride] = empty ? 1.0 : 0.0;
}

/* A label that is no column makes the sum of hard NaN: it is only here that it can be told. */
template <class T> KD_FN row_at<T> find_row(const losses_args &a, T *slopes, int64_t row)
{
    row_at<T> r;
    r.student = a.student + row * a.student_stride;
    r.teacher = a.teacher + row * a.teacher_stride;
    r.slopes = slopes;
    r.label = a.labels != nullptr ? a.labels[row] : -1;
    r.label_logit = r.label >= 0 && r.label < a.n_columns ? r.student[r.label] : NAN;
    return r;
}

/*
 * Losses and gradient of each row of a chunk; logits (R, V) f32, z the student's, z' the teacher's:
 *   kd    = KL(softmax(z' / T') || softmax(z / T)) over n_vocab columns
 *   hard  = log sum exp(z) - z[label] over V columns
 *   slope = kd_scale / T (softmax(z / T) - softmax(z' / T')) + hard_scale (softmax(z) - [label])
 * Bytes per column: 16 read with kd, else 8, and 2 (bf16) or 4 written. Without kd and without a
 * gradient there is no second reading: 4.
 */
template <class T, bool taught>
static __global__ void __launch_bounds__(THREADS) losses_kernel(losses_args a, T *slopes)
{
    const int64_t row = blockIdx.x;
    T *mine = slopes != nullptr ? slopes + row * a.slopes_stride : nullptr;
    if (a.rows[row] < 0) {
        if (mine != nullptr) {
            write_zeros(a, mine);
        }
        if (threadIdx.x < KD_VOCAB_SUMS) {
            a.row_sums[threadIdx.x * a.sums_stride + row] = 0.0;
        }
        return;
    }
    const row_at<T> r = find_row(a, mine, row);
    const row_sums s = read_row<taught>(a, r);
    const float hard_scale = a.labels != nullptr ? a.hard_scale : 0.0f;
    const float kd_scale = a.kd_scale * a.inv_t;
    row_gradient g; /* sums are 1 to V: a quick division does */
    g.h = __fdividef(hard_scale, s.hard.sum);
    g.a = __fdividef(kd_scale, s.q.sum);
    g.b = __fdividef(kd_scale, s.p.sum);
    g.at_label = hard_scale;
    const bool empty = taught && (s.p.sum == 0.0f || (a.empty != nullptr && a.empty[row] != 0));
    const double kd = taught ? forward_kl(a, r, s, g) : 0.0;
    if (mine != nullptr) {
        write_hard(a, r, s.hard.max, g);
    }
    if (threadIdx.x == 0) {
        write_sums(a, row, s, kd, empty, a.labels != nullptr ? &r.label_logit : nullptr);
    }
}

static bool is_aligned(kd_tensor t)
{
    return t.data == nullptr ||
           (kd_is_aligned(t.data) &&
            t.row_stride * static_cast<int64_t>(kd_dtype_bytes(t.dtype)) % 16 == 0);
}

static losses_args args_of(const kd_vocab_rows *rows)
{
    const bool taught = rows->teacher.data != nullptr;
    const int64_t n_columns = kd_tensor_columns(rows->student);
    losses_args a = {};
    KD_CHECK(n_columns <= INT32_MAX - THREADS * KD_ROW_WIDE); /* columns are counted by 32 bits */
    a.student = kd_cuda_data<const float>(rows->student);
    a.teacher = kd_cuda_data<const float>(rows->teacher);
    a.student_stride = rows->student.row_stride;
    a.teacher_stride = taught ? rows->teacher.row_stride : 0;
    a.slopes_stride = rows->slopes.row_stride;
    a.sums_stride = rows->sums_stride;
    a.rows = rows->rows;
    a.labels = rows->labels;
    a.empty = rows->empty;
    a.row_sums = rows->row_sums;
    a.n_columns = static_cast<int>(n_columns);
    a.n_vocab = taught ? static_cast<int>(rows->n_vocab) : 0;
    a.inv_t = 1.0f / rows->temperature;
    a.teacher_inv_t = 1.0f / rows->teacher_temperature;
    a.kd_scale = rows->kd_scale;
    a.hard_scale = rows->hard_scale;
    a.shared = rows->temperature == 1.0f && rows->n_vocab == n_columns;
    a.vectors = is_aligned(rows->student) && is_aligned(rows->teacher) && is_aligned(rows->slopes);
    return a;
}

template <bool taught> static void launch(kd_backend *be, const kd_vocab_rows *rows)
{
    const unsigned n_rows = kd_cuda_blocks(kd_tensor_rows(rows->student), 1);
    const kd_dtype dtype = rows->slopes.data != nullptr ? rows->slopes.dtype : KD_F32;
    kd_cuda_with_type(dtype, [&](auto type) {
        using T = decltype(type);
        kd_cuda_launch(be, "losses over the vocabulary", losses_kernel<T, taught>, n_rows, THREADS,
                       0, args_of(rows), kd_cuda_data<T>(rows->slopes));
    });
}

void kd_cuda_vocab_rows(kd_backend *be, const kd_vocab_rows *rows)
{
    if (rows->teacher.data == nullptr) {
        launch<false>(be, rows);
        return;
    }
    switch (rows->divergence) {
    case KD__SOFT_TARGET__DIVERGENCE__FORWARD_KL:
        launch<true>(be, rows);
        return;
    case _KD__SOFT_TARGET__DIVERGENCE_IS_INT_SIZE:
        break;
    }
    KD_CHECK(!"a divergence of unknown kind");
}

/* ---- the mixture of several teachers ---- */

struct mix_args {
    float *mixture;
    const float *teacher;
    int64_t mixture_stride, teacher_stride;
    const int32_t *rows;
    int32_t *empty;
    int n_vocab;
    float inv_t, log_share;
    bool first, vectors;
};

/* log(e^a + e^b); -inf is the log of 0. */
KD_FN float log_add(float a, float b)
{
    const float high = a > b ? a : b, low = a > b ? b : a;
    return high == -INFINITY ? high : high + log1pf(expf(low - high));
}

/*
 * mixture = log(e^mixture + share * softmax(z / T)), of each row of a chunk: (R, n_vocab) f32.
 * Logarithms all the way, so that a probability too small for a float keeps its size. A block a
 * row; bytes: 8 read of z, 4 of the mixture but for the first teacher, 4 written per column.
 */
static __global__ void __launch_bounds__(THREADS) mix_kernel(mix_args a)
{
    const int64_t row = blockIdx.x;
    const float *teacher = a.teacher + row * a.teacher_stride;
    float *mixture = a.mixture + row * a.mixture_stride;
    running p = KD_NOTHING_YET;
    if (a.rows[row] < 0) {
        return;
    }
    each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
        float z[w.value];
        kd_load_vector(z, teacher + i);
        take(p, z, a.inv_t);
    });
    p = join(p, a.inv_t);
    if (threadIdx.x == 0) {
        a.empty[row] = (p.sum == 0.0f ? 1 : 0) | (a.first ? 0 : a.empty[row]);
    }
    const float shift = a.log_share - logf(p.sum);
    each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
        float z[w.value], before[w.value] = {};
        kd_load_vector(z, teacher + i);
        if (!a.first) {
            kd_load_vector(before, mixture + i);
        }
#pragma unroll
        for (int j = 0; j < w.value; j++) {
            const float log_p = (z[j] - p.max) * a.inv_t + shift;
            z[j] = a.first ? log_p : log_add(before[j], log_p);
        }
        kd_store_vector(mixture + i, z);
    });
}

void kd_cuda_vocab_mix(kd_backend *be, const kd_vocab_mix *mix)
{
    mix_args a = {};
    a.mixture = kd_cuda_data<float>(mix->mixture);
    a.teacher = kd_cuda_data<const float>(mix->teacher);
    a.mixture_stride = mix->mixture.row_stride;
    a.teacher_stride = mix->teacher.row_stride;
    a.rows = mix->rows;
    a.empty = mix->empty;
    a.n_vocab = static_cast<int>(kd_tensor_columns(mix->mixture));
    a.inv_t = 1.0f / mix->temperature;
    a.log_share = static_cast<float>(log(mix->share));
    a.first = mix->first;
    a.vectors = is_aligned(mix->mixture) && is_aligned(mix->teacher);
    kd_cuda_launch(be, "the teachers' mixture", mix_kernel,
                   kd_cuda_blocks(kd_tensor_rows(mix->mixture), 1), THREADS, 0, a);
}

/* ---- sums over rows ---- */

/*
 * A block for each sum, all of its rows: one tree whatever the chunks were. 8 bytes read per row
 * and sum.
 */
static __global__ void __launch_bounds__(THREADS)
    sums_kernel(double *sums, const double *row_sums, int64_t n)
{
    const double *of_rows = row_sums + blockIdx.x * n;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < n; i += THREADS) {
        sum += of_rows[i];
    }
    sum = kd_block_sum(sum);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] += sum;
    }
}

void kd_cuda_vocab_sums(kd_backend *be, kd_tensor sums, const double *row_sums, int64_t n)
{
    KD_CHECK(kd_tensor_elements(sums) == KD_VOCAB_SUMS);
    kd_cuda_launch(be, "sums over rows", sums_kernel, KD_VOCAB_SUMS, THREADS, 0,
                   kd_cuda_data<double>(sums), row_sums, n);
}
