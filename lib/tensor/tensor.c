/*
 * tensor.c - views only: no function here owns or touches an element, so a tensor of memory that does not
 * exist yet, while an arena counts, is as good as any.
 */
#include "tensor/tensor.h"

#include "tensor/ops.h"

#define NUMBER_ONE(op) NUMBER_OF_##op,

enum { KD_OPS_EACH(NUMBER_ONE) N_OPS };

_Static_assert(sizeof(kd_ops) == sizeof(char *) + N_OPS * sizeof(void (*)(void)),
               "KD_OPS_EACH names every operation");

size_t kd_dtype_bytes(kd_dtype dtype)
{
    static const size_t bytes[] = {[KD_F32] = 4, [KD_BF16] = 2, [KD_F64] = 8, [KD_I32] = 4};
    _Static_assert(sizeof bytes / sizeof *bytes == KD_DTYPE_COUNT, "size every dtype");
    KD_CHECK(dtype < KD_DTYPE_COUNT);
    return bytes[dtype];
}

const char *kd_dtype_name(kd_dtype dtype)
{
    static const char *const names[] = {
        [KD_F32] = "f32", [KD_BF16] = "bf16", [KD_F64] = "f64", [KD_I32] = "i32"};
    _Static_assert(sizeof names / sizeof *names == KD_DTYPE_COUNT, "name every dtype");
    KD_CHECK(dtype < KD_DTYPE_COUNT);
    return names[dtype];
}

kd_dtype kd_dtype_auto(int64_t n_ranks, int64_t n_multiply)
{
    return n_ranks > 0 && n_multiply == n_ranks ? KD_BF16 : KD_F32;
}

kd_tensor kd_tensor_1d(void *data, kd_dtype dtype, int64_t n)
{
    KD_CHECK(n >= 0);
    return (kd_tensor){
        .data = data, .dtype = dtype, .n_dims = 1, .dims = {n, 1, 1}, .row_stride = n};
}

kd_tensor kd_tensor_2d(void *data, kd_dtype dtype, int64_t rows, int64_t columns)
{
    KD_CHECK(rows >= 0 && columns >= 0);
    return (kd_tensor){.data = data,
                       .dtype = dtype,
                       .n_dims = 2,
                       .dims = {rows, columns, 1},
                       .row_stride = columns};
}

kd_tensor kd_tensor_3d(void *data, kd_dtype dtype, int64_t n, int64_t rows, int64_t columns)
{
    KD_CHECK(n >= 0 && rows >= 0 && columns >= 0);
    return (kd_tensor){.data = data,
                       .dtype = dtype,
                       .n_dims = 3,
                       .dims = {n, rows, columns},
                       .row_stride = columns};
}

kd_tensor kd_tensor_none(void)
{
    return (kd_tensor){.n_dims = 1, .dims = {0, 1, 1}};
}

kd_tensor kd_tensor_carve_1d(kd_arena *arena, kd_dtype dtype, int64_t n)
{
    KD_CHECK(n >= 0);
    return kd_tensor_1d(kd_arena_carve(arena, (size_t)n * kd_dtype_bytes(dtype)), dtype, n);
}

kd_tensor kd_tensor_carve_2d(kd_arena *arena, kd_dtype dtype, int64_t rows, int64_t columns)
{
    KD_CHECK(rows >= 0 && columns >= 0);
    const size_t size_bytes = (size_t)rows * (size_t)columns * kd_dtype_bytes(dtype);
    return kd_tensor_2d(kd_arena_carve(arena, size_bytes), dtype, rows, columns);
}

int64_t kd_tensor_elements(kd_tensor t)
{
    return t.dims[0] * t.dims[1] * t.dims[2];
}

size_t kd_tensor_bytes(kd_tensor t)
{
    return (size_t)kd_tensor_elements(t) * kd_dtype_bytes(t.dtype);
}

int64_t kd_tensor_columns(kd_tensor t)
{
    return t.dims[t.n_dims - 1];
}

int64_t kd_tensor_rows(kd_tensor t)
{
    int64_t rows = 1;
    for (int i = 0; i < t.n_dims - 1; i++) {
        rows *= t.dims[i];
    }
    return rows;
}

/* While an arena only counts, its tensors have no memory to point into. */
static void *advance(kd_tensor t, int64_t elements)
{
    return t.data == NULL ? NULL : (char *)t.data + (size_t)elements * kd_dtype_bytes(t.dtype);
}

kd_tensor kd_tensor_slice_rows(kd_tensor t, int64_t first, int64_t n)
{
    KD_CHECK(t.n_dims == 2 && first >= 0 && n >= 0 && first + n <= t.dims[0]);
    t.data = advance(t, first * t.row_stride);
    t.dims[0] = n;
    return t;
}

kd_tensor kd_tensor_slice_columns(kd_tensor t, int64_t first, int64_t n)
{
    KD_CHECK(t.n_dims == 2 && first >= 0 && n >= 0 && first + n <= t.dims[1]);
    t.data = advance(t, first);
    t.dims[1] = n;
    return t;
}
