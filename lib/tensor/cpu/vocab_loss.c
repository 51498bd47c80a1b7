/*
 * vocab_loss.c - losses over the vocabulary without a matrix of rows by vocabulary.
 *
 * The rows that take part are cut into chunks. Of each the logits are formed, the gradient by the
 * logits, and from that its part of both gradients. d_lm_head crosses memory once a chunk, which is
 * what speaks for few and large ones; the logits of a chunk stay in a large cache if it is small.
 *
 * Rows that lie side by side are used where they are, others are gathered, and their number is
 * rounded up by rows of zeros so that products see few shapes.
 */
#include <string.h>

#include "tensor/cpu/vocab_rows.h"

/* A chunk of logits of about that size, but of rows enough for products to pay. */
enum { CHUNK_BYTES = 4 << 20, CHUNK_ROWS_MIN = 256, CHUNK_ROWS_MAX = 1024, ROWS_TILE = 32 };

/* What a chunk is worked on in: whole tiles of rows, of which `n` are real. */
typedef struct vocab_work {
    kd_backend *be;
    const kd_vocab_loss *loss;
    int32_t *rows; /* [n_rows] that take part */
    int64_t n_rows, chunk_rows;
    double *shares;      /* [n_teachers] */
    double *row_sums;    /* (chunk_rows, KD_VOCAB_SUMS) */
    int32_t *labels;     /* [chunk_rows], or NULL */
    kd_tensor *teachers; /* [n_teachers] (n, V') f32, of the chunk at work */
} vocab_work;

static bool has_gradient(const kd_vocab_loss *loss)
{
    return loss->d_hidden.data != NULL || loss->d_lm_head.data != NULL;
}

static int64_t tiles(int64_t n)
{
    return (n + ROWS_TILE - 1) / ROWS_TILE * ROWS_TILE;
}

/* Chunks of one size but for the last, so that none is left small and slow. */
static int64_t choose_chunk_rows(const kd_vocab_loss *loss, int64_t n_rows)
{
    const int64_t row_bytes = kd_tensor_rows(loss->lm_head) * (int64_t)sizeof(float);
    int64_t most = CHUNK_BYTES / row_bytes;
    most = most < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : most;
    most = most > CHUNK_ROWS_MAX ? CHUNK_ROWS_MAX : most;
    if (loss->chunk_rows > 0) {
        most = loss->chunk_rows;
    }
    const int64_t n_chunks = n_rows == 0 ? 1 : (n_rows + most - 1) / most;
    const int64_t even = tiles((n_rows + n_chunks - 1) / n_chunks);
    return even < most ? even : most;
}

/* ---- rows ---- */

typedef struct gather_args {
    kd_tensor dst, src;
    const int32_t *rows;
    int64_t n; /* the rest of dst is zero */
} gather_args;

static void gather_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const gather_args *a = args;
    const int64_t columns = kd_tensor_columns(a->dst);
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (row < a->n) {
            KD_KERNEL(convert_row)
            (kd_row(a->dst, row), a->dst.dtype, kd_row(a->src, a->rows[row]), a->src.dtype,
             columns);
        } else {
            memset(kd_row(a->dst, row), 0, (size_t)columns * kd_dtype_bytes(a->dst.dtype));
        }
    }
}

static void scatter_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const gather_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        KD_KERNEL(convert_row)
        (kd_row(a->dst, a->rows[row]), a->dst.dtype, kd_row(a->src, row), a->src.dtype,
         kd_tensor_columns(a->dst));
    }
}

static bool side_by_side(const int32_t *rows, int64_t n)
{
    return rows[n - 1] - rows[0] == n - 1 && n % ROWS_TILE == 0;
}

static kd_tensor scratch_2d(kd_backend *be, kd_dtype dtype, int64_t rows, int64_t columns)
{
    const size_t bytes = (size_t)rows * (size_t)columns * kd_dtype_bytes(dtype);
    return kd_tensor_2d(kd_cpu_scratch(be, bytes), dtype, rows, columns);
}

/* The rows of a chunk of one dtype: a view where they lie so, else a copy of whole tiles. */
static kd_tensor
chunk_of(const vocab_work *w, kd_tensor t, kd_dtype dtype, const int32_t *rows, int64_t n)
{
    if (side_by_side(rows, n) && t.dtype == dtype) {
        return kd_tensor_slice_rows(t, rows[0], n);
    }
    const kd_tensor copy = scratch_2d(w->be, dtype, tiles(n), kd_tensor_columns(t));
    if (copy.data != NULL) {
        const gather_args a = {copy, t, rows, n};
        (void)kd_parallel_rows(w->be, tiles(n), kd_grain(kd_tensor_columns(t)), gather_rows, &a);
    }
    return copy;
}

/* ---- one chunk ---- */

/* (n, V') f32 logits of a teacher. */
static kd_tensor
teacher_logits(const vocab_work *w, const kd_vocab_teacher *teacher, const int32_t *rows, int64_t n)
{
    kd_tensor logits;
    if (teacher->hidden.data == NULL) {
        logits = chunk_of(w, teacher->logits, KD_F32, rows, n);
    } else {
        const kd_tensor x = chunk_of(w, teacher->hidden, teacher->lm_head.dtype, rows, n);
        logits = scratch_2d(w->be, KD_F32, kd_tensor_rows(x), kd_tensor_rows(teacher->lm_head));
        if (!w->be->fault) {
            KD_KERNEL(linear)(w->be, logits, x, teacher->lm_head);
        }
    }
    return w->be->fault ? logits : kd_tensor_slice_rows(logits, 0, n);
}

/* Adds the sums in the order of the rows, so that neither threads nor chunks change them. */
static void add_sums(const vocab_work *w, int64_t n)
{
    double *sums = w->loss->sums.data;
    for (int64_t row = 0; row < n; row++) {
        const double *row_sums = w->row_sums + row * KD_VOCAB_SUMS;
        for (int i = 0; i < KD_VOCAB_SUMS; i++) {
            sums[i] += row_sums[i];
        }
    }
}

/* Losses of the chunk, and the gradient by its logits (n, V) in `slopes` if there is one. */
static void
run_rows(const vocab_work *w, const int32_t *rows, int64_t n, kd_tensor student, kd_tensor slopes)
{
    const kd_vocab_loss *loss = w->loss;
    const int32_t *labels = loss->labels.data;
    for (int64_t i = 0; labels != NULL && i < n; i++) {
        w->labels[i] = labels[rows[i]];
    }
    for (int t = 0; t < loss->n_teachers; t++) {
        w->teachers[t] = teacher_logits(w, &loss->teachers[t], rows, n);
    }
    if (w->be->fault) {
        return;
    }
    const kd_vocab_rows args = {
        .student = student,
        .slopes = slopes,
        .teachers = w->teachers,
        .shares = w->shares,
        .n_teachers = loss->n_teachers,
        .labels = labels != NULL ? w->labels : NULL,
        .n_vocab = loss->n_vocab,
        .divergence = loss->divergence,
        .temperature = loss->temperature,
        .kd_scale = loss->kd_scale,
        .hard_scale = loss->hard_scale,
        .row_sums = w->row_sums,
    };
    KD_KERNEL(vocab_rows)(w->be, &args);
    if (!kd_cpu_is_idle(w->be)) {
        add_sums(w, n);
    }
}

static void
tell_listener(const vocab_work *w, int32_t *rows, int64_t n, kd_tensor student, kd_tensor slopes)
{
    const kd_vocab_loss *loss = w->loss;
    if (loss->chunk == NULL || w->be->fault) {
        return;
    }
    const kd_vocab_chunk chunk = {
        .be = w->be,
        .rows = kd_tensor_1d(rows, KD_I32, n),
        .labels = loss->labels.data != NULL ? kd_tensor_1d(w->labels, KD_I32, n) : kd_tensor_none(),
        .student = student,
        .teachers = w->teachers,
        .n_teachers = loss->n_teachers,
        .d_student = slopes,
    };
    loss->chunk(loss->user, &chunk);
}

/* The gradients of both operands of x lm_head^T from that of the chunk's logits. */
static void
run_backward(const vocab_work *w, kd_tensor x, kd_tensor d_logits, const int32_t *rows, int64_t n)
{
    const kd_vocab_loss *loss = w->loss;
    if (loss->d_hidden.data != NULL) {
        const bool in_place = side_by_side(rows, n);
        const int64_t columns = kd_tensor_columns(x);
        const kd_tensor dx = in_place ? kd_tensor_slice_rows(loss->d_hidden, rows[0], n)
                                      : scratch_2d(w->be, KD_F32, kd_tensor_rows(x), columns);
        kd_cpu_product(w->be, &(kd_product){.c = dx, .a = d_logits, .b = loss->lm_head});
        if (!in_place && !w->be->fault) {
            const gather_args a = {loss->d_hidden, dx, rows, n};
            (void)kd_parallel_rows(w->be, n, kd_grain(columns), scatter_rows, &a);
        }
    }
    if (loss->d_lm_head.data != NULL) {
        kd_cpu_product(w->be, &(kd_product){.c = loss->d_lm_head,
                                            .a = d_logits,
                                            .b = x,
                                            .trans_a = true,
                                            .accumulate = loss->accumulate || rows != w->rows});
    }
}

/* What a chunk's gradient is formed in: f32 takes the place of the logits unless a listener reads both. */
typedef struct chunk_gradient {
    kd_tensor slopes;   /* (n, V), what the rows' losses write; f32 for a listener */
    kd_tensor d_logits; /* (n, V) compute, what products read                      */
} chunk_gradient;

static chunk_gradient take_gradient(const vocab_work *w, kd_tensor logits)
{
    const int64_t n = kd_tensor_rows(logits), n_columns = kd_tensor_columns(logits);
    const bool heard = w->loss->chunk != NULL, f32 = w->be->compute == KD_F32;
    if (!has_gradient(w->loss)) {
        return (chunk_gradient){kd_tensor_none(), kd_tensor_none()};
    }
    if (f32 && !heard) {
        return (chunk_gradient){logits, logits};
    }
    const kd_tensor d_logits = scratch_2d(w->be, w->be->compute, n, n_columns);
    const kd_tensor slopes = heard && !f32 ? scratch_2d(w->be, KD_F32, n, n_columns) : d_logits;
    return (chunk_gradient){slopes, d_logits};
}

/* Rows of zeros at the end of a chunk have no gradient. */
static void clear_tail(kd_tensor t, int64_t n)
{
    for (int64_t row = n; row < kd_tensor_rows(t); row++) {
        memset(kd_row(t, row), 0, (size_t)kd_tensor_columns(t) * kd_dtype_bytes(t.dtype));
    }
}

static void run_chunk(const vocab_work *w, int32_t *rows, int64_t n)
{
    kd_backend *be = w->be;
    const kd_vocab_loss *loss = w->loss;
    const int64_t n_columns = kd_tensor_rows(loss->lm_head);
    const kd_tensor x = chunk_of(w, loss->hidden, be->compute, rows, n);
    const int64_t n_padded = kd_tensor_rows(x);
    const kd_tensor logits = scratch_2d(be, KD_F32, n_padded, n_columns);
    const chunk_gradient g = take_gradient(w, logits);
    if (be->fault) {
        return;
    }
    KD_KERNEL(linear)(be, logits, x, loss->lm_head);
    const kd_tensor student = kd_tensor_slice_rows(logits, 0, n);
    const kd_tensor of_rows =
        g.slopes.data != NULL ? kd_tensor_slice_rows(g.slopes, 0, n) : kd_tensor_none();
    run_rows(w, rows, n, student, of_rows);
    tell_listener(w, rows, n, student, of_rows);
    if (has_gradient(loss) && !be->fault) {
        clear_tail(g.slopes, n);
        if (g.slopes.data != g.d_logits.data) {
            KD_KERNEL(copy)(be, g.d_logits, g.slopes);
        }
        run_backward(w, x, g.d_logits, rows, n);
    }
}

/* ---- the operation ---- */

/* The rows that take part, in ascending order. */
static void find_rows(vocab_work *w)
{
    const kd_vocab_loss *loss = w->loss;
    const int32_t *listed = loss->rows.data, *labels = loss->labels.data;
    const int64_t n = kd_tensor_rows(loss->hidden);
    const int64_t n_listed = listed != NULL ? kd_tensor_elements(loss->rows) : n;
    for (int64_t i = 0; i < n_listed; i++) {
        const int32_t row = listed != NULL ? listed[i] : (int32_t)i;
        KD_CHECK(row >= 0 && row < n);
        if (labels != NULL && labels[row] == KD_LABEL_IGNORED) {
            continue;
        }
        KD_CHECK(labels == NULL ||
                 (labels[row] >= 0 && labels[row] < kd_tensor_rows(loss->lm_head)));
        w->rows[w->n_rows++] = row;
    }
}

static void share_out(const vocab_work *w)
{
    double total = 0.0;
    for (int t = 0; t < w->loss->n_teachers; t++) {
        total += w->loss->teachers[t].weight;
    }
    for (int t = 0; t < w->loss->n_teachers; t++) {
        w->shares[t] = total > 0.0 ? w->loss->teachers[t].weight / total : 0.0;
    }
}

/* What lasts longer than a chunk. */
static void start(vocab_work *w)
{
    const size_t n_teachers = (size_t)w->loss->n_teachers;
    w->rows = kd_cpu_scratch(w->be, (size_t)kd_tensor_rows(w->loss->hidden) * sizeof *w->rows);
    if (w->rows == NULL) {
        return;
    }
    find_rows(w);
    w->chunk_rows = choose_chunk_rows(w->loss, w->n_rows);
    const size_t n = (size_t)w->chunk_rows;
    w->row_sums = kd_cpu_scratch(w->be, n * KD_VOCAB_SUMS * sizeof *w->row_sums);
    w->labels = kd_cpu_scratch(w->be, n * sizeof *w->labels);
    w->shares = kd_cpu_scratch(w->be, n_teachers * sizeof *w->shares);
    w->teachers = kd_cpu_scratch(w->be, n_teachers * sizeof *w->teachers);
    if (!w->be->fault) {
        share_out(w);
    }
}

void KD_KERNEL(vocab_loss)(kd_backend *be, const kd_vocab_loss *loss)
{
    kd_check_vocab_loss(be, loss);
    if (be->fault) {
        return;
    }
    vocab_work w = {.be = be, .loss = loss};
    const size_t mark = kd_cpu_scratch_mark(be);
    start(&w);
    if (loss->d_hidden.data != NULL && w.n_rows < kd_tensor_rows(loss->hidden)) {
        KD_KERNEL(zero)(be, loss->d_hidden);
    }
    if (loss->d_lm_head.data != NULL && w.n_rows == 0 && !loss->accumulate) {
        KD_KERNEL(zero)(be, loss->d_lm_head);
    }
    for (int64_t first = 0; first < w.n_rows && !be->fault; first += w.chunk_rows) {
        const int64_t left = w.n_rows - first;
        const size_t chunk_mark = kd_cpu_scratch_mark(be);
        run_chunk(&w, w.rows + first, left < w.chunk_rows ? left : w.chunk_rows);
        kd_cpu_scratch_rewind(be, chunk_mark);
    }
    kd_cpu_scratch_rewind(be, mark);
}
