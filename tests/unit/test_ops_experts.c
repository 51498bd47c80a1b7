/* Products of the experts' segments, against doubles. */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/support/ops_check.h"

enum { SPARE_ROWS = 32, EXPERTS_MAX = 8 };

typedef struct shape {
    kd_dtype compute, dtype_y; /* of y, dy and dx */
    int64_t n_experts, width_y, width_x;
    int64_t padding; /* of every row but the gradient's of the weights */
    int32_t offsets[EXPERTS_MAX + 1];
} shape;

/* Tensors of one test; those whose name ends in _ref are f64. */
typedef struct tensors {
    kd_tensor x, w, dy, y, dx, dw, y_ref, dx_ref, dw_ref;
    kd_route route;
} tensors;

static kd_tensor by_expert(kd_tensor matrix, int64_t n_experts)
{
    kd_tensor t = kd_tensor_3d(matrix.data, matrix.dtype, n_experts, matrix.dims[0] / n_experts,
                               matrix.dims[1]);
    t.row_stride = matrix.row_stride;
    return t;
}

/* Rows past the last segment are NaN where they must not be read, and 7 where they must not be written. */
static void set_spare_rows(kd_tensor t, int64_t first, double value)
{
    for (int64_t row = first; row < kd_tensor_rows(t); row++) {
        for (int64_t column = 0; column < kd_tensor_columns(t); column++) {
            kd_test_set(t, row, column, value);
        }
    }
}

static tensors make(const shape *s)
{
    const int64_t used = s->offsets[s->n_experts], rows = used + SPARE_ROWS;
    const int64_t o = s->width_y, k = s->width_x, all = s->n_experts * o;
    const tensors t = {
        .x = kd_test_padded(s->compute, rows, k, s->padding, 1),
        .w = kd_test_padded(s->compute, all, k, s->padding, 2),
        .dy = kd_test_padded(s->dtype_y, rows, o, s->padding, 3),
        .y = kd_test_padded(s->dtype_y, rows, o, s->padding, 4),
        .dx = kd_test_padded(s->dtype_y, rows, k, s->padding, 5),
        .dw = kd_test_random(KD_F32, all, k, 6),
        .y_ref = kd_test_zeros(KD_F64, used, o),
        .dx_ref = kd_test_zeros(KD_F64, used, k),
        .dw_ref = kd_test_zeros(KD_F64, all, k),
        .route = {.offset = kd_test_i32(s->offsets, s->n_experts + 1)},
    };
    set_spare_rows(t.x, used, NAN);
    set_spare_rows(t.dy, used, NAN);
    set_spare_rows(t.y, used, 7.0);
    set_spare_rows(t.dx, used, 7.0);
    return t;
}

static void release(tensors *t)
{
    const kd_tensor all[] = {t->x,  t->w,     t->dy,     t->y,      t->dx,
                             t->dw, t->y_ref, t->dx_ref, t->dw_ref, t->route.offset};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
}

static void multiply_in_doubles(const shape *s, const tensors *t, int times)
{
    for (int64_t e = 0; e < s->n_experts; e++) {
        const int64_t at = s->offsets[e], n = s->offsets[e + 1] - at;
        const kd_tensor w = kd_tensor_slice_rows(t->w, e * s->width_y, s->width_y);
        const kd_tensor dw = kd_tensor_slice_rows(t->dw_ref, e * s->width_y, s->width_y);
        const kd_tensor x = kd_tensor_slice_rows(t->x, at, n);
        const kd_tensor dy = kd_tensor_slice_rows(t->dy, at, n);
        kd_test_multiply(kd_tensor_slice_rows(t->y_ref, at, n), x, false, w, true);
        kd_test_multiply(kd_tensor_slice_rows(t->dx_ref, at, n), dy, false, w, false);
        for (int i = 0; i < times; i++) {
            kd_test_multiply(dw, dy, true, x, false);
        }
    }
}

static void expect_spare_rows(kd_tensor t, int64_t first)
{
    for (int64_t row = first; row < kd_tensor_rows(t); row++) {
        for (int64_t column = 0; column < kd_tensor_columns(t); column++) {
            cr_assert_eq(kd_test_get(t, row, column), 7.0, "row %lld past the last segment",
                         (long long)row);
        }
    }
}

static void expect_experts(const shape *s)
{
    kd_backend *be = kd_test_backend(s->compute, 2);
    const double limit = s->compute == KD_F32 ? 1e-10 : 2e-5;
    const int64_t used = s->offsets[s->n_experts];
    tensors t = make(s);
    const kd_tensor w = by_expert(t.w, s->n_experts), dw = by_expert(t.dw, s->n_experts);
    be->ops->experts(be, t.y, t.x, w, &t.route);
    be->ops->experts_backward_x(be, t.dx, t.dy, w, &t.route);
    for (int i = 0; i < 2; i++) { /* written over what is there, then added to */
        be->ops->experts_backward_w(be, dw, t.dy, t.x, &t.route, i > 0);
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    multiply_in_doubles(s, &t, 2);
    cr_expect_lt(kd_test_nmse(kd_tensor_slice_rows(t.y, 0, used), t.y_ref), limit);
    cr_expect_lt(kd_test_nmse(kd_tensor_slice_rows(t.dx, 0, used), t.dx_ref), limit);
    cr_expect_lt(kd_test_nmse(t.dw, t.dw_ref), limit);
    expect_spare_rows(t.y, used);
    expect_spare_rows(t.dx, used);
    release(&t);
    kd_backend_destroy(be);
}

/* Segments of 0, 32, 64 and 1952 rows: none, one tile, two, and more than a product's rows at most. */
Test(ops_experts, each_multiplies_its_own_segment)
{
    shape s = {KD_F32, KD_F32, 4, 6, 10, 0, {0, 0, 32, 96, 2048}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

/* More rows and columns than a tile has, neither a multiple of anything; rows at any address. */
Test(ops_experts, rows_may_lie_at_any_distance)
{
    shape s = {KD_F32, KD_F32, 5, 131, 69, 3, {0, 32, 32, 192, 224, 224}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

/* As above, but every row begins at a multiple of 16 bytes. */
Test(ops_experts, rows_at_aligned_addresses_have_tails)
{
    shape s = {KD_F32, KD_F32, 5, 139, 75, 5, {0, 32, 32, 192, 224, 224}};
    expect_experts(&s);
    s.compute = s.dtype_y = KD_BF16;
    expect_experts(&s);
}

Test(ops_experts, results_of_bf16_may_be_f32_and_gradients_come_so)
{
    const shape s = {KD_BF16, KD_F32, 3, 17, 33, 1, {0, 64, 64, 96}};
    expect_experts(&s);
}

Test(ops_experts, no_row_at_all_writes_zeros_for_the_gradient)
{
    shape s = {KD_F32, KD_F32, 3, 5, 9, 0, {0, 0, 0, 0}};
    for (int i = 0; i < 2; i++) {
        expect_experts(&s);
        s.compute = s.dtype_y = KD_BF16;
    }
}

Test(ops_experts, the_gradient_of_one_without_rows_stays_where_it_is_added_to)
{
    enum { E = 3, O = 5, K = 9 };

    kd_backend *be = kd_test_backend(KD_F32, 1);
    const shape s = {KD_F32, KD_F32, E, O, K, 0, {0, 32, 32, 64}};
    tensors t = make(&s);
    const kd_tensor before = kd_test_random(KD_F32, E * O, K, 6);
    be->ops->experts_backward_w(be, by_expert(t.dw, E), t.dy, t.x, &t.route, true);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_eq(kd_test_nmse(kd_tensor_slice_rows(t.dw, O, O), kd_tensor_slice_rows(before, O, O)),
                 0.0);
    cr_expect_gt(kd_test_nmse(kd_tensor_slice_rows(t.dw, 0, O), kd_tensor_slice_rows(before, 0, O)),
                 0.0);
    kd_test_free(before);
    release(&t);
    kd_backend_destroy(be);
}
