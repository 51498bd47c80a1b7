/* What dense products on a CUDA device have of their own: the plain kernel, and the table of the library's. */
#include <criterion/criterion.h>

#include "tensor/cuda/plain_product.h"
#include "tensor/product_table.h"
#include "tests/support/ops_check.h"

typedef struct shape {
    int64_t m, n, k, padding; /* of every row */
} shape;

typedef struct kind_pair {
    kd_dtype operands, result;
} kind_pair;

static const kind_pair all_kinds[] = {{KD_F32, KD_F32}, {KD_BF16, KD_BF16}, {KD_BF16, KD_F32}};

/* The operands, and what is there before, are the same for the same shape. */
static kd_product make(const shape *s, kind_pair kinds, bool trans_a, bool trans_b)
{
    return (kd_product){
        .c = kd_test_padded(kinds.result, s->m, s->n, s->padding, 3),
        .a = kd_test_padded(kinds.operands, trans_a ? s->k : s->m, trans_a ? s->m : s->k,
                            s->padding, 1),
        .b = kd_test_padded(kinds.operands, trans_b ? s->n : s->k, trans_b ? s->k : s->n,
                            s->padding, 2),
        .trans_a = trans_a,
        .trans_b = trans_b,
    };
}

static void release(const kd_product *p)
{
    kd_test_free(p->c);
    kd_test_free(p->a);
    kd_test_free(p->b);
}

static void expect_product(kd_backend *be, const shape *s, kind_pair kinds, int bits)
{
    const double limit = kinds.result == KD_F32 ? 1e-10 : 1e-5;
    kd_product p = make(s, kinds, (bits & 1) != 0, (bits & 2) != 0);
    const kd_tensor want = kd_test_zeros(KD_F64, s->m, s->n);
    p.accumulate = (bits & 4) != 0;
    for (int64_t i = 0; p.accumulate && i < s->m * s->n; i++) {
        kd_test_set(want, i / s->n, i % s->n, kd_test_get(p.c, i / s->n, i % s->n));
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK); /* nothing is read while it runs */
    kd_cuda_plain_product(be, &p);
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    kd_test_multiply(want, p.a, p.trans_a, p.b, p.trans_b);
    cr_expect_lt(kd_test_nmse(p.c, want), limit, "%lld %lld %lld padded by %lld, %s to %s, %d",
                 (long long)s->m, (long long)s->n, (long long)s->k, (long long)s->padding,
                 kd_dtype_name(kinds.operands), kd_dtype_name(kinds.result), bits);
    release(&p);
    kd_test_free(want);
}

/* Transposed or not, written or added to; with rows at any address, and at multiples of 16 bytes. */
Test(ops_cuda_products, the_plain_kernel_follows_the_formula)
{
    static const shape shapes[] = {
        {1, 1, 1, 0}, {3, 17, 33, 1}, {33, 5, 0, 0}, {70, 131, 37, 3}, {136, 72, 40, 8},
    };
    for (size_t kind = 0; kind < sizeof all_kinds / sizeof *all_kinds; kind++) {
        kd_backend *be = kd_test_backend(all_kinds[kind].operands, 1);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            for (int bits = 0; bits < 8; bits++) {
                expect_product(be, &shapes[i], all_kinds[kind], bits);
            }
        }
        kd_backend_destroy(be);
    }
}

Test(ops_cuda_products, the_plain_kernel_without_elements_does_nothing)
{
    static const shape shapes[] = {{0, 5, 3, 0}, {5, 0, 3, 1}};
    kd_backend *be = kd_test_backend(KD_F32, 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const kd_product p = make(&shapes[i], all_kinds[0], false, false);
        kd_cuda_plain_product(be, &p);
        cr_expect_eq(kd_backend_wait(be), KD_OK);
        release(&p);
    }
    kd_backend_destroy(be);
}

/* Every shape once, and the first ones again after others took their places. */
Test(ops_cuda_products, more_shapes_than_the_table_holds_stay_right)
{
    enum { SIDE = 33, SHAPES = SIDE * SIDE };

    cr_assert_gt(SHAPES, KD_PRODUCTS_MAX);
    kd_backend *be = kd_test_backend(KD_F32, 1);
    const kd_tensor x = kd_test_random(KD_F32, SIDE, 1, 1), w = kd_test_random(KD_F32, SIDE, 1, 2);
    const kd_tensor y = kd_test_zeros(KD_F32, SIDE, SIDE), want = kd_test_zeros(KD_F64, SIDE, SIDE);
    for (int64_t i = SHAPES + 20; i >= 0; i--) { /* the first 21 come again */
        const int64_t rows = i % SHAPES / SIDE + 1, columns = i % SIDE + 1;
        be->ops->linear(be, kd_tensor_slice_columns(kd_tensor_slice_rows(y, 0, rows), 0, columns),
                        kd_tensor_slice_rows(x, 0, rows), kd_tensor_slice_rows(w, 0, columns));
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    kd_test_multiply(want, x, false, w, true);
    cr_expect_lt(kd_test_nmse(y, want), 1e-10);
    kd_test_free(x);
    kd_test_free(w);
    kd_test_free(y);
    kd_test_free(want);
    kd_backend_destroy(be);
}
