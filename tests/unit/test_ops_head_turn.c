/* Head norm and rotary embedding as one operation: the bits of the two in sequence. */
#include <criterion/criterion.h>

#include "tests/support/ops_check.h"

static const float eps = 1e-5f;

enum { POSITIONS = 5, ROWS_MAX = 70 };

typedef struct fixture {
    kd_backend *be;
    kd_tensor y, x, w, rstd, dx, dw, dy;
    kd_rotation by;
    int64_t n_parts;
} fixture;

typedef struct sizes {
    int64_t rows, heads, dim;
    bool whole_rows; /* one norm for all heads of a row */
    bool packed;     /* positions that rows name        */
} sizes;

static fixture make(kd_dtype compute, const sizes *s)
{
    const int64_t width = s->heads * s->dim, n_parts = s->whole_rows ? 1 : s->heads;
    fixture f = {
        .be = kd_test_backend(compute, 2),
        .y = kd_test_padded(compute, s->rows, width, 2, 6),
        .x = kd_test_padded(compute, s->rows, width, 8, 1),
        .w = kd_test_random(KD_F32, 1, width / n_parts, 3),
        .rstd = kd_test_zeros(KD_F32, s->rows, n_parts),
        .dx = kd_test_padded(compute, s->rows, width, 1, 5),
        .dw = kd_test_zeros(KD_F32, 1, width / n_parts),
        .dy = kd_test_random(compute, s->rows, width, 4),
        .by = {.table = kd_test_random(KD_F32, POSITIONS, s->dim, 7),
               .positions = kd_tensor_none(),
               .n_heads = s->heads},
        .n_parts = n_parts,
    };
    if (s->packed) {
        int32_t at[ROWS_MAX];
        for (int64_t row = 0; row < s->rows; row++) {
            at[row] = (int32_t)(row * row % POSITIONS);
        }
        f.by.positions = kd_test_i32(at, s->rows);
    }
    return f;
}

static void release(fixture *f)
{
    const kd_tensor all[] = {f->y,  f->x,  f->w,        f->rstd,        f->dx,
                             f->dw, f->dy, f->by.table, f->by.positions};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (all[i].data != NULL) {
            kd_test_free(all[i]);
        }
    }
    kd_backend_destroy(f->be);
}

static double forward(void *user)
{
    fixture *f = user;
    f->be->ops->head_norm_rotate(f->be, f->y, f->x, f->w, f->rstd, eps, &f->by);
    return kd_test_project(f->y, f->dy);
}

/* From a copy of dy, which is used up. */
static void backward(fixture *f)
{
    const kd_tensor used =
        kd_test_zeros(f->dy.dtype, kd_tensor_rows(f->dy), kd_tensor_columns(f->dy));
    f->be->ops->copy(f->be, used, f->dy);
    f->be->ops->head_norm_rotate_backward(f->be, f->dx, f->dw, used, f->x, f->w, f->rstd, false,
                                          &f->by);
    kd_test_free(used);
}

static void in_sequence(fixture *f)
{
    const kd_ops *ops = f->be->ops;
    ops->head_norm(f->be, f->y, f->x, f->w, f->rstd, f->n_parts, eps);
    ops->rotate(f->be, f->y, &f->by, false);
    ops->rotate(f->be, f->dy, &f->by, true);
    ops->head_norm_backward(f->be, f->dx, f->dw, f->dy, f->x, f->w, f->rstd, f->n_parts, false);
}

/* clang-format off */
static const sizes all_sizes[] = {
    {1, 1, 2, false, false},   /* one pair                               */
    {7, 3, 6, false, true},    /* no whole pieces                        */
    {5, 3, 24, false, false},  /* whole ones in a head, not in its halves */
    {9, 2, 16, false, true},   /* whole ones                             */
    {9, 2, 16, true, true},    /* a norm over all heads                  */
    {6, 5, 10, true, false},
    {67, 4, 64, false, true},  /* several blocks                         */
    {6, 9, 128, true, false},  /* a block a row                          */
};

/* clang-format on */

static void expect_sequence(kd_dtype compute, const sizes *s)
{
    fixture both = make(compute, s), two = make(compute, s);
    (void)forward(&both);
    backward(&both);
    in_sequence(&two);
    cr_expect_eq(kd_test_nmse(both.y, two.y), 0.0, "y: %lld heads of %lld", (long long)s->heads,
                 (long long)s->dim);
    cr_expect_eq(kd_test_nmse(both.rstd, two.rstd), 0.0);
    cr_expect_eq(kd_test_nmse(both.dx, two.dx), 0.0, "dx: %lld heads of %lld", (long long)s->heads,
                 (long long)s->dim);
    cr_expect_eq(kd_test_nmse(both.dw, two.dw), 0.0);
    release(&two);
    release(&both);
}

Test(ops_head_turn, gives_the_bits_of_head_norm_and_rotate_in_sequence)
{
    for (size_t i = 0; i < sizeof all_sizes / sizeof *all_sizes; i++) {
        expect_sequence(KD_F32, &all_sizes[i]);
        expect_sequence(KD_BF16, &all_sizes[i]);
    }
}

static void expect_gradients(sizes s)
{
    fixture f = make(KD_F32, &s);
    (void)forward(&f);
    backward(&f);
    cr_expect_lt(kd_test_slope_error(forward, &f, f.x, f.dx, 1e-2), 3e-3);
    cr_expect_lt(kd_test_slope_error(forward, &f, f.w, f.dw, 1e-2), 3e-3);
    release(&f);
}

Test(ops_head_turn, gradients_match_central_differences)
{
    expect_gradients((sizes){1, 1, 6, false, false});
    expect_gradients((sizes){3, 4, 10, false, true});
    expect_gradients((sizes){7, 2, 8, true, true});
}

Test(ops_head_turn, a_weight_without_a_gradient_changes_no_gradient_of_x)
{
    const sizes s = {7, 3, 16, false, false};
    fixture f = make(KD_BF16, &s), frozen = make(KD_BF16, &s);
    (void)forward(&f);
    (void)forward(&frozen);
    backward(&f);
    kd_test_free(frozen.dw);
    frozen.dw = kd_tensor_none();
    backward(&frozen);
    cr_expect_eq(kd_test_nmse(frozen.dx, f.dx), 0.0);
    release(&frozen);
    release(&f);
}
