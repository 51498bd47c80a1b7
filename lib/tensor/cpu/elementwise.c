/*
 * elementwise.c - loops that are bound by memory: what matters is that each reads and writes once. The
 * host's transfers are here too, since on a CPU they are copies.
 */
#include <string.h>

#include "tensor/cpu/cpu.h"

typedef enum pair_kind { COPY, ADD } pair_kind;

typedef struct pair_args {
    kd_tensor dst, src;
    int64_t columns;
    bool flat; /* both packed: a range of rows is a range of elements */
} pair_args;

/* Two tensors of one shape; packed ones are seen as rows of one element. */
static pair_args pair_of(kd_tensor dst, kd_tensor src)
{
    const int64_t columns = kd_tensor_columns(dst);
    return (pair_args){dst, src, columns, dst.row_stride == columns && src.row_stride == columns};
}

KD_INLINE void convert(void *dst, kd_dtype to, const void *src, kd_dtype from, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        kd_put(dst, i, to, kd_get(src, i, from));
    }
}

static void narrow(void *dst, const void *src, int64_t n)
{
    convert(dst, KD_BF16, src, KD_F32, n);
}

static void widen(void *dst, const void *src, int64_t n)
{
    convert(dst, KD_F32, src, KD_BF16, n);
}

void KD_KERNEL(
    convert_row)(void *dst, kd_dtype dst_dtype, const void *src, kd_dtype src_dtype, int64_t n)
{
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, (size_t)n * kd_dtype_bytes(dst_dtype));
    } else if (dst_dtype == KD_BF16) {
        narrow(dst, src, n);
    } else {
        widen(dst, src, n);
    }
}

KD_INLINE void add_body(float *dst, const void *src, kd_dtype dtype, int64_t n)
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        dst[i] += kd_get(src, i, dtype);
    }
}

static void add_row(float *dst, const void *src, kd_dtype dtype, int64_t n)
{
    if (dtype == KD_BF16) {
        add_body(dst, src, KD_BF16, n);
    } else {
        add_body(dst, src, KD_F32, n);
    }
}

static void apply(const pair_args *a, pair_kind kind, int64_t dst_at, int64_t src_at, int64_t n)
{
    void *dst = (char *)a->dst.data + (size_t)dst_at * kd_dtype_bytes(a->dst.dtype);
    const void *src = (const char *)a->src.data + (size_t)src_at * kd_dtype_bytes(a->src.dtype);
    if (kind == COPY) {
        KD_KERNEL(convert_row)(dst, a->dst.dtype, src, a->src.dtype, n);
    } else {
        add_row(dst, src, a->src.dtype, n);
    }
}

static void pair_rows(const pair_args *a, pair_kind kind, int64_t begin, int64_t end)
{
    if (a->flat) {
        apply(a, kind, begin, begin, end - begin);
        return;
    }
    for (int64_t row = begin; row < end; row++) {
        apply(a, kind, row * a->dst.row_stride, row * a->src.row_stride, a->columns);
    }
}

static void copy_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    (void)lane;
    pair_rows(args, COPY, begin, end);
}

static void add_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    (void)lane;
    pair_rows(args, ADD, begin, end);
}

static void run_pair(kd_backend *be, const pair_args *a, kd_rows_fn *fn)
{
    const int64_t n = a->flat ? kd_tensor_elements(a->dst) : kd_tensor_rows(a->dst);
    (void)kd_parallel_rows(be, n, kd_grain(a->flat ? 1 : a->columns), fn, a);
}

void KD_KERNEL(copy)(kd_backend *be, kd_tensor dst, kd_tensor src)
{
    kd_check_copy(dst, src);
    const pair_args a = pair_of(dst, src);
    if (!be->fault) {
        run_pair(be, &a, copy_rows);
    }
}

void KD_KERNEL(add)(kd_backend *be, kd_tensor dst, kd_tensor src)
{
    kd_check_add(dst, src);
    const pair_args a = pair_of(dst, src);
    if (!be->fault) {
        run_pair(be, &a, add_rows);
    }
}

/* The host's side of a transfer: packed, of the same shape. */
static kd_tensor packed_like(kd_tensor t, void *host)
{
    t.data = host;
    t.row_stride = kd_tensor_columns(t);
    return t;
}

void KD_KERNEL(upload)(kd_backend *be, kd_tensor dst, const void *host)
{
    KD_KERNEL(copy)(be, dst, packed_like(dst, (void *)host));
}

void KD_KERNEL(download)(kd_backend *be, void *host, kd_tensor src)
{
    if (((const kd_cpu *)be)->rehearses) {
        memset(host, 0, kd_tensor_bytes(src));
    }
    KD_KERNEL(copy)(be, packed_like(src, host), src);
}

void KD_KERNEL(zero)(kd_backend *be, kd_tensor t)
{
    if (kd_cpu_is_idle(be)) {
        return;
    }
    const int64_t rows = kd_tensor_rows(t), columns = kd_tensor_columns(t);
    const size_t size = kd_dtype_bytes(t.dtype);
    if (t.row_stride == columns) {
        memset(t.data, 0, (size_t)kd_tensor_elements(t) * size);
        return;
    }
    for (int64_t row = 0; row < rows; row++) {
        memset((char *)t.data + (size_t)(row * t.row_stride) * size, 0, (size_t)columns * size);
    }
}

typedef struct bias_args {
    kd_tensor y;
    float *b; /* (O): the bias, or (parts, O) sums of columns */
    int64_t columns;
} bias_args;

KD_INLINE void bias_row(const bias_args *a, int64_t row, kd_dtype dtype)
{
    void *y = kd_row(a->y, row);
    const float *b = a->b;
    const int64_t columns = a->columns;
#pragma omp simd
    for (int64_t i = 0; i < columns; i++) {
        kd_put(y, i, dtype, kd_get(y, i, dtype) + b[i]);
    }
}

static void bias_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const bias_args *a = args;
    (void)lane;
    for (int64_t row = begin; row < end; row++) {
        if (a->y.dtype == KD_BF16) {
            bias_row(a, row, KD_BF16);
        } else {
            bias_row(a, row, KD_F32);
        }
    }
}

void KD_KERNEL(bias)(kd_backend *be, kd_tensor y, kd_tensor b)
{
    const int64_t columns = kd_tensor_columns(y);
    kd_check_bias(y, b);
    if (!be->fault) {
        const bias_args a = {y, b.data, columns};
        (void)kd_parallel_rows(be, kd_tensor_rows(y), kd_grain(columns), bias_rows, &a);
    }
}

static void bias_backward_rows(const void *args, int lane, int64_t begin, int64_t end)
{
    const bias_args *a = args;
    float *sum = a->b + lane * a->columns;
    memset(sum, 0, (size_t)a->columns * sizeof *sum);
    for (int64_t row = begin; row < end; row++) {
        add_row(sum, kd_row(a->y, row), a->y.dtype, a->columns);
    }
}

void KD_KERNEL(bias_backward)(kd_backend *be, kd_tensor db, kd_tensor dy, bool accumulate)
{
    const int64_t columns = kd_tensor_columns(dy);
    kd_check_bias_backward(db, dy);
    if (be->fault) {
        return;
    }
    const size_t mark = kd_cpu_scratch_mark(be);
    float *partial = kd_cpu_scratch(be, (size_t)be->n_threads * (size_t)columns * sizeof *partial);
    if (partial != NULL) {
        const bias_args a = {dy, partial, columns};
        const int n_parts =
            kd_parallel_rows(be, kd_tensor_rows(dy), kd_grain(columns), bias_backward_rows, &a);
        kd_sum_partials(db.data, partial, n_parts, columns, accumulate);
    }
    kd_cpu_scratch_rewind(be, mark);
}
