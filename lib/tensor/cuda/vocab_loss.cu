/*
 * vocab_loss.cu - losses over the vocabulary without a matrix of rows by vocabulary.
 *
 * The rows that are listed, or all, are cut into chunks. Of each the logits are formed, the
 * gradient by the logits, and from that its part of both gradients. Which of these rows have a
 * label only the device knows: one that has none is worked on like the others, with a gradient of
 * 0. Sums are kept by row and added at the end, so that the cut into chunks changes no bit of them.
 */
#include "base/log.h"
#include "tensor/cuda/row.h"
#include "tensor/cuda/vocab_rows.h"

/*
 * Rows of a chunk: d_lm_head crosses memory once a chunk, which 2,048 rows of products outweigh;
 * more where a chunk of logits stays below CHUNK_BYTES.
 */
enum : int64_t {
    CHUNK_BYTES = 256 << 20,
    CHUNK_ROWS_MIN = 2048,
    CHUNK_ROWS_MAX = 16384,
    ROWS_TILE = 64,
};

enum { TEACHERS_MAX = 1024, THREADS = 256 };

/* What lasts longer than a chunk. */
struct vocab_work {
    kd_backend *be;
    const kd_vocab_loss *loss;
    int64_t n_rows, chunk_rows;
    int32_t *rows;    /* [n_rows] numbers in the micro-batch, -1: takes no part */
    int32_t *labels;  /* [n_rows], or NULL                                      */
    double *row_sums; /* (KD_VOCAB_SUMS, n_rows)                                */
    double weight;    /* of all teachers together                               */
    int n_mixed;      /* teachers of weight > 0                                 */
};

/* The rows [first, first + n) of those. */
struct vocab_chunk {
    int64_t first, n;
    int32_t *rows, *labels;
};

static bool has_gradient(const kd_vocab_loss *loss)
{
    return loss->d_hidden.data != nullptr || loss->d_lm_head.data != nullptr;
}

/* Chunks of one size but for the last, so that none is left small and slow. */
static int64_t choose_chunk_rows(const kd_vocab_loss *loss, int64_t n_rows)
{
    const int64_t row_bytes = kd_tensor_rows(loss->lm_head) * static_cast<int64_t>(sizeof(float));
    int64_t most = CHUNK_BYTES / row_bytes;
    most = most < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : most;
    most = most > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : most;
    if (loss->chunk_rows > 0) {
        most = loss->chunk_rows;
    }
    const int64_t n_chunks = n_rows == 0 ? 1 : (n_rows + most - 1) / most;
    const int64_t even =
        ((n_rows + n_chunks - 1) / n_chunks + ROWS_TILE - 1) / ROWS_TILE * ROWS_TILE;
    return even < most ? even : most;
}

/* ---- rows ---- */

/* Numbers and labels of the rows, listed or all. 16 bytes a row. */
static __global__ void __launch_bounds__(THREADS) pick_kernel(int32_t *rows_out,
                                                              int32_t *labels_out,
                                                              const int32_t *listed,
                                                              const int32_t *labels,
                                                              int64_t n)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= n) {
        return;
    }
    const int32_t row = listed != nullptr ? listed[i] : static_cast<int32_t>(i);
    const int32_t label = labels != nullptr ? labels[row] : 0;
    rows_out[i] = label != KD_LABEL_IGNORED ? row : -1;
    if (labels_out != nullptr) {
        labels_out[i] = label;
    }
}

/*
 * dst[i] = src[rows[i]], 0 where that is -1; dst (n, C). A block a row, whose threads move W
 * elements at once.
 */
template <int W, class D, class S>
static __global__ void __launch_bounds__(THREADS) gather_kernel(D *dst,
                                                                int64_t dst_stride,
                                                                const S *src,
                                                                int64_t src_stride,
                                                                const int32_t *rows,
                                                                int64_t n_columns)
{
    const int64_t row = rows[blockIdx.x];
    D *out = dst + blockIdx.x * dst_stride;
    const S *in = src + row * src_stride;
    for (int64_t i = int64_t{threadIdx.x} * W; i < n_columns; i += THREADS * W) {
        float v[W] = {};
        if (row >= 0) {
            kd_load_vector(v, in + i);
        }
        kd_store_vector(out + i, v);
    }
}

/* dst[rows[i]] = src[i] but where that is -1; src (n, C). A block a row. */
static __global__ void __launch_bounds__(THREADS) scatter_kernel(float *dst,
                                                                 int64_t dst_stride,
                                                                 const float *src,
                                                                 int64_t src_stride,
                                                                 const int32_t *rows,
                                                                 int64_t n_columns)
{
    const int64_t row = rows[blockIdx.x];
    for (int64_t i = threadIdx.x; row >= 0 && i < n_columns; i += THREADS) {
        dst[row * dst_stride + i] = src[blockIdx.x * src_stride + i];
    }
}

/*
 * What a listener added to rows that take no part is taken away: t[i] = 0 where rows[i] is -1;
 * t (n, V).
 */
static __global__ void __launch_bounds__(THREADS)
    clear_kernel(float *t, int64_t stride, const int32_t *rows, int64_t n_columns)
{
    float *row = t + blockIdx.x * stride;
    for (int64_t i = threadIdx.x; rows[blockIdx.x] < 0 && i < n_columns; i += THREADS) {
        row[i] = 0.0f;
    }
}

/* (n, C) whose rows begin at multiples of 16 bytes. */
static kd_tensor take_rows(kd_backend *be, kd_dtype dtype, int64_t n, int64_t n_columns)
{
    const int64_t step = 16 / static_cast<int64_t>(kd_dtype_bytes(dtype));
    const kd_tensor wide = kd_cuda_scratch_2d(be, dtype, n, (n_columns + step - 1) / step * step);
    return be->fault == KD_OK ? kd_tensor_slice_columns(wide, 0, n_columns) : kd_tensor_none();
}

static void gather(kd_backend *be, kd_tensor dst, kd_tensor src, const vocab_chunk *c)
{
    kd_row_with_width(kd_row_is_wide(dst, src), [&](auto width) {
        kd_cuda_with_type(dst.dtype, [&](auto to) {
            kd_cuda_with_type(src.dtype, [&](auto from) {
                using D = decltype(to);
                using S = decltype(from);
                kd_cuda_launch(be, "gathering rows", gather_kernel<decltype(width)::value, D, S>,
                               kd_cuda_blocks(c->n, 1), THREADS, 0, kd_cuda_data<D>(dst),
                               dst.row_stride, kd_cuda_data<const S>(src), src.row_stride, c->rows,
                               kd_tensor_columns(src));
            });
        });
    });
}

/* The rows of a chunk in one dtype: a view where they lie so, else a copy. */
static kd_tensor chunk_of(const vocab_work *w, kd_tensor t, kd_dtype dtype, const vocab_chunk *c)
{
    const int64_t n_columns = kd_tensor_columns(t);
    if (w->loss->rows.data == nullptr && t.dtype == dtype) {
        return kd_tensor_slice_rows(t, c->first, c->n);
    }
    const kd_tensor copy = take_rows(w->be, dtype, c->n, n_columns);
    if (w->be->fault != KD_OK) {
        return copy;
    }
    gather(w->be, copy, t, c);
    return copy;
}

/* ---- teachers ---- */

/* (n, V') f32 logits of a teacher. */
static kd_tensor
teacher_logits(const vocab_work *w, const kd_vocab_teacher *teacher, const vocab_chunk *c)
{
    if (teacher->hidden.data == nullptr) {
        return chunk_of(w, teacher->logits, KD_F32, c);
    }
    const kd_tensor x = chunk_of(w, teacher->hidden, teacher->lm_head.dtype, c);
    const kd_tensor logits = take_rows(w->be, KD_F32, c->n, kd_tensor_rows(teacher->lm_head));
    if (w->be->fault == KD_OK) {
        const kd_product product = {logits, x, teacher->lm_head, false, true, false};
        kd_cuda_product(w->be, &product);
    }
    return logits;
}

/* What the rows' losses are held against. */
struct taught {
    kd_tensor teacher; /* (n, V') f32, or none */
    float temperature;
    int32_t *empty; /* [n], or NULL */
};

/*
 * All teachers of a chunk, or with a listener also those without weight, whose logits are then kept
 * in `logits`. Of several the mixture is formed one by one.
 */
static taught form_teachers(const vocab_work *w, const vocab_chunk *c, kd_tensor *logits)
{
    kd_backend *be = w->be;
    const kd_vocab_loss *loss = w->loss;
    const bool heard = loss->chunk != nullptr;
    taught all = {kd_tensor_none(), loss->temperature, nullptr};
    int n_before = 0;
    if (w->n_mixed > 1) {
        const size_t bytes = static_cast<size_t>(c->n) * sizeof *all.empty;
        all.teacher = take_rows(be, KD_F32, c->n, loss->n_vocab);
        all.temperature = 1.0f;
        all.empty = static_cast<int32_t *>(kd_cuda_scratch(be, bytes));
    }
    for (int t = 0; t < loss->n_teachers && be->fault == KD_OK; t++) {
        const double weight = loss->teachers[t].weight;
        const size_t mark = kd_cuda_scratch_mark(be);
        if (weight == 0.0 && !heard) {
            continue;
        }
        logits[t] = teacher_logits(w, &loss->teachers[t], c);
        if (weight > 0.0 && w->n_mixed == 1) {
            all.teacher = logits[t];
        } else if (weight > 0.0 && be->fault == KD_OK) {
            const kd_vocab_mix mix = {all.teacher,    logits[t],         c->rows,
                                      all.empty,      loss->temperature, weight / w->weight,
                                      n_before++ == 0};
            kd_cuda_vocab_mix(be, &mix);
        }
        if (!heard && w->n_mixed > 1) {
            kd_cuda_scratch_rewind(be, mark);
        }
    }
    return all;
}

/* ---- one chunk ---- */

/* Losses of the chunk, and the gradient by its logits (n, V) in `slopes` if there is one. */
static void run_rows(const vocab_work *w,
                     const vocab_chunk *c,
                     kd_tensor student,
                     kd_tensor slopes,
                     const taught *by)
{
    const kd_vocab_loss *loss = w->loss;
    kd_vocab_rows rows = {};
    rows.student = student;
    rows.slopes = slopes;
    rows.teacher = by->teacher;
    rows.teacher_temperature = by->temperature;
    rows.rows = c->rows;
    rows.labels = c->labels;
    rows.empty = by->empty;
    rows.n_vocab = loss->n_vocab;
    rows.divergence = loss->divergence;
    rows.temperature = loss->temperature;
    rows.kd_scale = loss->kd_scale;
    rows.hard_scale = loss->hard_scale;
    rows.row_sums = w->row_sums + c->first;
    rows.sums_stride = w->n_rows;
    kd_cuda_vocab_rows(w->be, &rows);
}

static void tell_listener(const vocab_work *w,
                          const vocab_chunk *c,
                          kd_tensor student,
                          kd_tensor slopes,
                          const kd_tensor *teachers)
{
    const kd_vocab_loss *loss = w->loss;
    if (loss->chunk == nullptr || w->be->fault != KD_OK) {
        return;
    }
    const kd_vocab_chunk chunk = {
        w->be,
        kd_tensor_1d(c->rows, KD_I32, c->n),
        c->labels != nullptr ? kd_tensor_1d(c->labels, KD_I32, c->n) : kd_tensor_none(),
        student,
        teachers,
        loss->n_teachers,
        slopes,
    };
    loss->chunk(loss->user, &chunk);
    if (slopes.data != nullptr && c->labels != nullptr) {
        kd_cuda_launch(w->be, "rows without a part", clear_kernel, kd_cuda_blocks(c->n, 1), THREADS,
                       0, kd_cuda_data<float>(slopes), slopes.row_stride, c->rows,
                       kd_tensor_columns(slopes));
    }
}

static void find_d_hidden(const vocab_work *w, const vocab_chunk *c, kd_tensor d_logits)
{
    const kd_vocab_loss *loss = w->loss;
    const bool in_place = loss->rows.data == nullptr;
    const int64_t n_columns = kd_tensor_columns(loss->d_hidden);
    const kd_tensor dx = in_place ? kd_tensor_slice_rows(loss->d_hidden, c->first, c->n)
                                  : take_rows(w->be, KD_F32, c->n, n_columns);
    if (w->be->fault != KD_OK) {
        return;
    }
    const kd_product product = {dx, d_logits, loss->lm_head, false, false, false};
    kd_cuda_product(w->be, &product);
    if (!in_place) {
        kd_cuda_launch(w->be, "scattering rows", scatter_kernel, kd_cuda_blocks(c->n, 1), THREADS,
                       0, kd_cuda_data<float>(loss->d_hidden), loss->d_hidden.row_stride,
                       kd_cuda_data<const float>(dx), dx.row_stride, c->rows, n_columns);
    }
}

/* The gradients of both operands of x lm_head^T from that of the chunk's logits. */
static void run_backward(const vocab_work *w, const vocab_chunk *c, kd_tensor x, kd_tensor d_logits)
{
    const kd_vocab_loss *loss = w->loss;
    if (loss->d_hidden.data != nullptr) {
        find_d_hidden(w, c, d_logits);
    }
    if (loss->d_lm_head.data != nullptr) {
        const bool adds = loss->accumulate || c->first > 0;
        const kd_product product = {loss->d_lm_head, d_logits, x, true, false, adds};
        kd_cuda_product(w->be, &product);
    }
}

/*
 * What a chunk's gradient is formed in: f32 takes the place of the logits unless a listener reads
 * both.
 */
struct chunk_gradient {
    kd_tensor slopes;   /* (n, V), what the rows' losses write; f32 for a listener */
    kd_tensor d_logits; /* (n, V) compute, what products read                      */
};

static chunk_gradient take_gradient(const vocab_work *w, kd_tensor logits)
{
    const int64_t n = kd_tensor_rows(logits), n_columns = kd_tensor_columns(logits);
    const bool heard = w->loss->chunk != nullptr, f32 = w->be->compute == KD_F32;
    if (!has_gradient(w->loss)) {
        return {kd_tensor_none(), kd_tensor_none()};
    }
    if (f32 && !heard) {
        return {logits, logits};
    }
    const kd_tensor d_logits = take_rows(w->be, w->be->compute, n, n_columns);
    return {heard && !f32 ? take_rows(w->be, KD_F32, n, n_columns) : d_logits, d_logits};
}

static void run_chunk(const vocab_work *w, const vocab_chunk *c)
{
    kd_backend *be = w->be;
    const kd_vocab_loss *loss = w->loss;
    kd_tensor teachers[TEACHERS_MAX];
    const kd_tensor x = chunk_of(w, loss->hidden, be->compute, c);
    const kd_tensor logits = take_rows(be, KD_F32, c->n, kd_tensor_rows(loss->lm_head));
    if (be->fault != KD_OK) {
        return;
    }
    const chunk_gradient g = take_gradient(w, logits);
    const kd_product product = {logits, x, loss->lm_head, false, true, false};
    kd_cuda_product(be, &product);
    const taught by = form_teachers(w, c, teachers);
    if (be->fault != KD_OK) {
        return;
    }
    run_rows(w, c, logits, g.slopes, &by);
    tell_listener(w, c, logits, g.slopes, teachers);
    if (has_gradient(loss) && be->fault == KD_OK) {
        if (g.slopes.data != g.d_logits.data) {
            kd_cuda_copy(be, g.d_logits, g.slopes);
        }
        run_backward(w, c, x, g.d_logits);
    }
}

/* ---- the operation ---- */

static void find_weights(vocab_work *w)
{
    for (int t = 0; t < w->loss->n_teachers; t++) {
        w->weight += w->loss->teachers[t].weight;
        w->n_mixed += w->loss->teachers[t].weight > 0.0;
    }
}

/* False: a fault. */
static bool start(vocab_work *w)
{
    const kd_vocab_loss *loss = w->loss;
    const bool listed = loss->rows.data != nullptr, labelled = loss->labels.data != nullptr;
    w->n_rows = listed ? kd_tensor_elements(loss->rows) : kd_tensor_rows(loss->hidden);
    w->chunk_rows = choose_chunk_rows(loss, w->n_rows);
    const size_t n = static_cast<size_t>(w->n_rows);
    w->rows = static_cast<int32_t *>(kd_cuda_scratch(w->be, n * sizeof *w->rows));
    if (labelled) {
        w->labels = static_cast<int32_t *>(kd_cuda_scratch(w->be, n * sizeof *w->labels));
    }
    w->row_sums =
        static_cast<double *>(kd_cuda_scratch(w->be, n * KD_VOCAB_SUMS * sizeof *w->row_sums));
    find_weights(w);
    kd_cuda_launch(w->be, "rows that take part", pick_kernel, kd_cuda_blocks(w->n_rows, THREADS),
                   THREADS, 0, w->rows, w->labels, kd_cuda_data<const int32_t>(loss->rows),
                   kd_cuda_data<const int32_t>(loss->labels), w->n_rows);
    return w->be->fault == KD_OK;
}

static void run_chunks(const vocab_work *w)
{
    for (int64_t first = 0; first < w->n_rows && w->be->fault == KD_OK; first += w->chunk_rows) {
        const int64_t left = w->n_rows - first;
        const size_t mark = kd_cuda_scratch_mark(w->be);
        const vocab_chunk chunk = {first, left < w->chunk_rows ? left : w->chunk_rows,
                                   w->rows + first,
                                   w->labels != nullptr ? w->labels + first : nullptr};
        run_chunk(w, &chunk);
        kd_cuda_scratch_rewind(w->be, mark);
    }
}

void kd_cuda_vocab_loss(kd_backend *be, const kd_vocab_loss *loss)
{
    vocab_work w = {};
    w.be = be;
    w.loss = loss;
    kd_check_vocab_loss(be, loss);
    KD_CHECK(loss->n_teachers <= TEACHERS_MAX);
    if (be->fault != KD_OK) {
        return;
    }
    const size_t mark = kd_cuda_scratch_mark(be);
    if (start(&w)) {
        if (loss->d_hidden.data != nullptr && loss->rows.data != nullptr) {
            kd_cuda_zero(be, loss->d_hidden);
        }
        if (loss->d_lm_head.data != nullptr && w.n_rows == 0 && !loss->accumulate) {
            kd_cuda_zero(be, loss->d_lm_head);
        }
        run_chunks(&w);
        kd_cuda_vocab_sums(be, loss->sums, w.row_sums, w.n_rows);
    }
    kd_cuda_scratch_rewind(be, mark);
}
