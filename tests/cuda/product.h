/*
 * product.h - what a product must give: c[m][n] = sum over k of a[row0 + m][k] b[n][k], in doubles.
 */
#ifndef KD_TESTS_CUDA_PRODUCT_H
#define KD_TESTS_CUDA_PRODUCT_H

#include "harness.h"

inline std::vector<double> kd_test_product(const std::vector<__nv_bfloat16> &a,
                                           const __nv_bfloat16 *b,
                                           int m,
                                           int n,
                                           int k,
                                           int row0)
{
    std::vector<double> c((size_t)m * n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double s = 0;
            for (int x = 0; x < k; x++)
                s += kd_test_value(a[(size_t)(row0 + i) * k + x]) *
                     kd_test_value(b[(size_t)j * k + x]);
            c[(size_t)i * n + j] = s;
        }
    return c;
}

#endif
