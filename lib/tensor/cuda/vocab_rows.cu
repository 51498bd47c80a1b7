/*
 * vocab_rows.cu - the losses of the rows of one chunk, and their gradients by its logits.
 *
 * Idea: a block a row, which is read twice. First all softmaxes are summed as one goes, each with
 * the largest logit so far; then, with the sums known, the divergence and the gradient are formed
 * column by column. A thread meets the same columns both times, so the gradient may take the place
 * of the logits.
 */
#include "base/log.h"
#include "tensor/cuda/row.h"
#include "tensor/cuda/vocab_rows_common.h"

enum { THREADS = 256 };

/* Of all threads of the block. */
KD_FN kd_softmax join(kd_softmax mine, float unit)
{
    const float max = kd_block_max(mine.max);
    return {max, kd_block_sum(kd_softmax_sum_at(mine, max, unit))};
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

/* A row as its block sees it. */
template <class T> struct row_at {
    const float *student, *teacher;
    T *slopes; /* or NULL */
    kd_vocab_label label;
};

template <class T> KD_FN row_at<T> find_row(const kd_vocab_args &a, T *slopes, int64_t row)
{
    row_at<T> r;
    r.student = a.student + row * a.student_stride;
    r.teacher = a.teacher + row * a.teacher_stride;
    r.slopes = slopes;
    r.label.column = a.labels != nullptr ? a.labels[row] : -1;
    r.label.logit = kd_vocab_label_logit(a, row, r.label.column);
    return r;
}

template <bool taught, class T>
KD_FN kd_vocab_row_sums read_row(const kd_vocab_args &a, const row_at<T> &row)
{
    kd_vocab_row_sums s = kd_vocab_no_sums(row.label);
    if (taught) {
        each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
            float x[w.value], z[w.value];
            kd_load_vector(x, row.student + i);
            kd_load_vector(z, row.teacher + i);
            kd_vocab_add_taught(s, a, row.label, i, x, z);
        });
    }
    each_column(a.n_vocab, a.n_columns, a.vectors, [&](auto w, int i) {
        float x[w.value];
        kd_load_vector(x, row.student + i);
        kd_vocab_add(s, row.label, i, x);
    });
    s.hard = join(s.hard, KD_LOG2_E);
    if (taught) {
        s.p = join(s.p, a.teacher_unit);
        s.q = a.shared ? s.hard : join(s.q, a.unit);
    }
    s.beaten = kd_block_max(s.beaten ? 1.0f : 0.0f) != 0.0f;
    return s;
}

/* The divergence, as kd_vocab_slope_taught() has it, and the gradient in the columns that all know. */
template <class T>
KD_FN float read_taught(const kd_vocab_args &a,
                        const row_at<T> &row,
                        const kd_vocab_row_sums &s,
                        const kd_vocab_gradient &g)
{
    float sum = 0.0f;
    each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
        float x[w.value], z[w.value];
        kd_load_vector(x, row.student + i);
        kd_load_vector(z, row.teacher + i);
        sum += kd_vocab_slope_taught(x, z, a, s, g, i, row.label.column);
        if (row.slopes != nullptr) {
            kd_store_vector(row.slopes + i, x);
        }
    });
    return kd_block_sum(sum);
}

/* The gradient in the columns that kd does not see. */
template <class T>
KD_FN void write_hard(const kd_vocab_args &a,
                      const row_at<T> &row,
                      const kd_vocab_row_sums &s,
                      const kd_vocab_gradient &g)
{
    each_column(a.n_vocab, a.n_columns, a.vectors, [&](auto w, int i) {
        float x[w.value];
        kd_load_vector(x, row.student + i);
        kd_vocab_slope(x, s, g, i, row.label.column);
        kd_store_vector(row.slopes + i, x);
    });
}

template <class T> KD_FN void write_zeros(const kd_vocab_args &a, T *slopes)
{
    each_column(0, a.n_columns, a.vectors, [&](auto w, int i) {
        float zeros[w.value] = {};
        kd_store_vector(slopes + i, zeros);
    });
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
static __global__ void __launch_bounds__(THREADS) losses_kernel(kd_vocab_args a, T *slopes)
{
    const int64_t row = blockIdx.x;
    T *mine = slopes != nullptr ? slopes + row * a.slopes_stride : nullptr;
    if (a.rows[row] < 0) {
        if (mine != nullptr) {
            write_zeros(a, mine);
        }
        kd_vocab_write_no_sums(a, row);
        return;
    }
    const row_at<T> r = find_row(a, mine, row);
    const kd_vocab_row_sums s = read_row<taught>(a, r);
    const kd_vocab_gradient g = kd_vocab_gradient_of(a, s);
    const float kl = taught ? read_taught(a, r, s, g) : 0.0f;
    if (mine != nullptr) {
        write_hard(a, r, s, g);
    }
    if (threadIdx.x == 0) {
        kd_vocab_write_sums(a, row, s, r.label.logit);
        kd_vocab_write_kd(a, row, kl, taught ? s.p.sum : 1.0f);
    }
}

static bool is_aligned(kd_tensor t)
{
    return t.data == nullptr ||
           (kd_is_aligned(t.data) &&
            t.row_stride * static_cast<int64_t>(kd_dtype_bytes(t.dtype)) % 16 == 0);
}

static kd_vocab_args args_of(const kd_vocab_rows *rows)
{
    const bool taught = rows->teacher.data != nullptr;
    const int64_t n_columns = kd_tensor_columns(rows->student);
    kd_vocab_args a = {};
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
    a.n_rows = kd_tensor_rows(rows->student);
    a.unit = KD_LOG2_E / rows->temperature;
    a.teacher_unit = KD_LOG2_E / rows->teacher_temperature;
    a.kd_scale = rows->kd_scale / rows->temperature;
    a.hard_scale = rows->labels != nullptr ? rows->hard_scale : 0.0f;
    a.shared = rows->temperature == 1.0f && rows->n_vocab == n_columns;
    a.vectors = is_aligned(rows->student) && is_aligned(rows->teacher) && is_aligned(rows->slopes);
    return a;
}

template <bool taught>
static void launch(kd_backend *be, const kd_vocab_args &args, kd_tensor slopes)
{
    kd_cuda_with_type(slopes.data != nullptr ? slopes.dtype : KD_F32, [&](auto type) {
        using T = decltype(type);
        kd_cuda_launch(be, "losses over the vocabulary", losses_kernel<T, taught>,
                       kd_cuda_blocks(args.n_rows, 1), THREADS, 0, args, kd_cuda_data<T>(slopes));
    });
}

void kd_cuda_vocab_rows(kd_backend *be, const kd_vocab_rows *rows)
{
    const kd_vocab_args args = args_of(rows);
    if (rows->teacher.data == nullptr) {
        launch<false>(be, args, rows->slopes);
        return;
    }
    switch (rows->divergence) {
    case KD__SOFT_TARGET__DIVERGENCE__FORWARD_KL:
        if (!kd_cuda_uses(be, KD_CUDA_KERNEL_VOCABULARY_FAST) ||
            !kd_cuda_vocab_rows_cluster(be, args, rows->slopes)) {
            launch<true>(be, args, rows->slopes);
        }
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
    const float unit = a.inv_t * KD_LOG2_E;
    kd_softmax p = kd_softmax_empty();
    if (a.rows[row] < 0) {
        return;
    }
    each_column(0, a.n_vocab, a.vectors, [&](auto w, int i) {
        float z[w.value];
        kd_load_vector(z, teacher + i);
        kd_softmax_add(p, z, unit);
    });
    p = join(p, unit);
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
