#include "tests/support/product_check.h"

#include <criterion/criterion.h>

#include "tests/support/ops_check.h"

void kd_test_linear(kd_dtype compute, kd_dtype dtype_y, int64_t n, int64_t o, int64_t k)
{
    kd_backend *be = kd_test_backend(compute, 1);
    const double limit = compute == KD_F32 ? 1e-12 : 2e-5;
    const kd_tensor x = kd_test_padded(compute, n, k, 3, 1),
                    w = kd_test_padded(compute, o, k, 1, 2);
    const kd_tensor y = kd_test_padded(dtype_y, n, o, 5, 3),
                    dx = kd_test_padded(compute, n, k, 2, 4);
    const kd_tensor dw = kd_test_zeros(KD_F32, o, k);
    const kd_tensor y_ref = kd_test_zeros(KD_F64, n, o), dx_ref = kd_test_zeros(KD_F64, n, k);
    const kd_tensor dw_ref = kd_test_zeros(KD_F64, o, k);
    be->ops->linear(be, y, x, w);
    kd_test_multiply(y_ref, x, false, w, true);
    be->ops->linear_backward_x(be, dx, y, w);
    kd_test_multiply(dx_ref, y, false, w, false);
    for (int twice = 0; twice < 2; twice++) {
        be->ops->linear_backward_w(be, dw, y, x, true);
        kd_test_multiply(dw_ref, y, true, x, false);
    }
    cr_assert_eq(kd_backend_wait(be), KD_OK);
    cr_expect_lt(kd_test_nmse(y, y_ref), limit, "y of %lld %lld %lld", n, o, k);
    cr_expect_lt(kd_test_nmse(dx, dx_ref), limit, "dx of %lld %lld %lld", n, o, k);
    cr_expect_lt(kd_test_nmse(dw, dw_ref), limit, "dw of %lld %lld %lld", n, o, k);
    const kd_tensor all[] = {x, w, y, dx, dw, y_ref, dx_ref, dw_ref};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        kd_test_free(all[i]);
    }
    kd_backend_destroy(be);
}
