#include "tests/support/ops_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "tensor/cpu/vec_math.h"

#define GUARD_BYTES 64
#define GUARD_BYTE  0xa5

/* Bytes from the first to behind the last element of the last row's whole stride. */
static size_t stored_bytes(kd_tensor t)
{
    return (size_t)(kd_tensor_rows(t) * t.row_stride) * kd_dtype_bytes(t.dtype);
}

static kd_tensor make(kd_dtype dtype, int64_t rows, int64_t columns, int64_t stride)
{
    kd_tensor t = kd_tensor_2d(NULL, dtype, rows, columns);
    t.row_stride = stride;
    const size_t bytes = stored_bytes(t);
    t.data = kd_test_take(bytes + GUARD_BYTES);
    KD_CHECK(t.data != NULL);
    memset(t.data, GUARD_BYTE, bytes + GUARD_BYTES);
    for (int64_t row = 0; row < rows; row++) {
        memset((char *)t.data + (size_t)(row * stride) * kd_dtype_bytes(dtype), 0,
               (size_t)columns * kd_dtype_bytes(dtype));
    }
    return t;
}

kd_tensor kd_test_zeros(kd_dtype dtype, int64_t rows, int64_t columns)
{
    return make(dtype, rows, columns, columns);
}

kd_tensor
kd_test_padded(kd_dtype dtype, int64_t rows, int64_t columns, int64_t padding, uint64_t seed)
{
    const kd_tensor t = make(dtype, rows, columns, columns + padding);
    for (int64_t i = 0; i < rows * columns; i++) {
        kd_test_set(t, i / columns, i % columns, kd_rng_normal(seed, (uint64_t)i));
    }
    return t;
}

kd_tensor kd_test_random(kd_dtype dtype, int64_t rows, int64_t columns, uint64_t seed)
{
    return kd_test_padded(dtype, rows, columns, 0, seed);
}

static bool all_guard(const void *memory, size_t n)
{
    const unsigned char *bytes = memory;
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] != GUARD_BYTE) {
            return false;
        }
    }
    return true;
}

bool kd_test_guarded(kd_tensor t)
{
    kd_test_settle();
    const size_t size = kd_dtype_bytes(t.dtype), stride = (size_t)t.row_stride * size;
    const size_t used = (size_t)kd_tensor_columns(t) * size;
    for (int64_t row = 0; row < kd_tensor_rows(t); row++) {
        if (!all_guard((char *)t.data + (size_t)row * stride + used, stride - used)) {
            return false;
        }
    }
    return all_guard((char *)t.data + stored_bytes(t), GUARD_BYTES);
}

void kd_test_free(kd_tensor t)
{
    KD_CHECK(kd_test_guarded(t));
    kd_test_give_back(t.data);
}

kd_tensor kd_test_i32(const int32_t *values, int64_t n)
{
    const kd_tensor t = kd_test_zeros(KD_I32, 1, n);
    memcpy(t.data, values, (size_t)n * sizeof *values);
    return kd_tensor_1d(t.data, KD_I32, n);
}

int32_t *kd_test_ints(kd_tensor t)
{
    KD_CHECK(t.dtype == KD_I32);
    kd_test_settle();
    return t.data;
}

double kd_test_get(kd_tensor t, int64_t row, int64_t column)
{
    const int64_t at = row * t.row_stride + column;
    kd_test_settle();
    if (t.dtype == KD_F64) {
        return ((const double *)t.data)[at];
    }
    return (double)kd_get(t.data, at, t.dtype);
}

void kd_test_set(kd_tensor t, int64_t row, int64_t column, double value)
{
    const int64_t at = row * t.row_stride + column;
    kd_test_settle();
    if (t.dtype == KD_F64) {
        ((double *)t.data)[at] = value;
    } else {
        kd_put(t.data, at, t.dtype, (float)value);
    }
}

double kd_test_nmse(kd_tensor a, kd_tensor b)
{
    double error = 0.0, size = 0.0;
    const int64_t columns = kd_tensor_columns(b);
    KD_CHECK(kd_tensor_elements(a) == kd_tensor_elements(b));
    for (int64_t i = 0; i < kd_tensor_elements(b); i++) {
        const double x = kd_test_get(a, i / columns, i % columns);
        const double y = kd_test_get(b, i / columns, i % columns);
        error += (x - y) * (x - y);
        size += y * y;
    }
    return error == 0.0 ? 0.0 : error / size;
}

static double *values_of(kd_tensor t)
{
    const int64_t n = kd_tensor_rows(t) * kd_tensor_columns(t);
    double *values = calloc((size_t)n + 1, sizeof *values);
    KD_CHECK(values != NULL);
    for (int64_t i = 0; i < n; i++) {
        values[i] = kd_test_get(t, i / kd_tensor_columns(t), i % kd_tensor_columns(t));
    }
    return values;
}

void kd_test_multiply(kd_tensor c, kd_tensor a, bool trans_a, kd_tensor b, bool trans_b)
{
    const int64_t n_rows = kd_tensor_rows(c), n_columns = kd_tensor_columns(c);
    const int64_t depth = trans_a ? kd_tensor_rows(a) : kd_tensor_columns(a);
    double *x = values_of(a), *y = values_of(b);
    for (int64_t i = 0; i < n_rows * n_columns; i++) {
        const int64_t row = i / n_columns, column = i % n_columns;
        double sum = kd_test_get(c, row, column);
        for (int64_t k = 0; k < depth; k++) {
            sum += x[trans_a ? k * n_rows + row : row * depth + k] *
                   y[trans_b ? column * depth + k : k * n_columns + column];
        }
        kd_test_set(c, row, column, sum);
    }
    free(x);
    free(y);
}

double kd_test_project(kd_tensor t, kd_tensor factors)
{
    double sum = 0.0;
    const int64_t columns = kd_tensor_columns(t);
    for (int64_t i = 0; i < kd_tensor_elements(t); i++) {
        sum += kd_test_get(t, i / columns, i % columns) *
               kd_test_get(factors, i / columns, i % columns);
    }
    return sum;
}

double
kd_test_slope_error(kd_test_function *f, void *user, kd_tensor x, kd_tensor gradient, double h)
{
    double worst = 0.0, largest = 0.0;
    const int64_t columns = kd_tensor_columns(x);
    for (int64_t i = 0; i < kd_tensor_elements(x); i++) {
        const int64_t row = i / columns, column = i % columns;
        const double value = kd_test_get(x, row, column);
        kd_test_set(x, row, column, value + h);
        const double up_at = kd_test_get(x, row, column), up = f(user);
        kd_test_set(x, row, column, value - h);
        const double down_at = kd_test_get(x, row, column), down = f(user);
        kd_test_set(x, row, column, value);
        const double slope = (up - down) / (up_at - down_at);
        const double error = fabs(slope - kd_test_get(gradient, row, column));
        worst = error > worst || isnan(error) ? error : worst;
        largest = fabs(slope) > largest ? fabs(slope) : largest;
    }
    return largest == 0.0 ? worst : worst / largest;
}
