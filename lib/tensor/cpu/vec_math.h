/*
 * vec_math.h - what the inner loops of the CPU back end are made of.
 *
 * Everything is inlined into the loop and has no branch, so the compiler turns the loop into
 * vectors of the instruction level it is compiled for. kd_get and kd_put take the dtype as a constant:
 * a kernel is written once as an inlined body and called once per dtype.
 */
#ifndef KD_TENSOR_CPU_VEC_MATH_H
#define KD_TENSOR_CPU_VEC_MATH_H

#include <stdint.h>

#include "tensor/half.h"
#include "tensor/tensor.h"

KD_INLINE float kd_get(const void *data, int64_t at, kd_dtype dtype)
{
    return dtype == KD_BF16 ? kd_bf16_to_f32(((const uint16_t *)data)[at])
                            : ((const float *)data)[at];
}

KD_INLINE void kd_put(void *data, int64_t at, kd_dtype dtype, float value)
{
    if (dtype == KD_BF16) {
        ((uint16_t *)data)[at] = kd_bf16_from_f32(value);
    } else {
        ((float *)data)[at] = value;
    }
}

/* First element of a row. */
KD_INLINE void *kd_row(kd_tensor t, int64_t row)
{
    return (char *)t.data + (size_t)(row * t.row_stride) * (t.dtype == KD_BF16 ? 2 : 4);
}

/*
 * e^x within 2.5 ulp (as measured) for x up to 88; e^0 is 1. Callers shift by a maximum, so x is
 * cut from below only, at -87.3: the result is never 0 or subnormal. A NaN stays one. With
 * n = round(x / ln 2), e^x = 2^n e^r, |r| <= ln 2 / 2: ln 2 is subtracted in two parts so that r is
 * exact, and e^r is the polynomial of degree 5 whose largest relative error is least, 9.2e-8,
 * among those that are 1 at 0.
 */
KD_INLINE float kd_exp(float x)
{
    x = x < -87.33654f ? -87.33654f : x;
    /* Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits. */
    const kd_float_bits shifted = {.value = x * 1.44269504f + 12582912.0f};
    const float n = shifted.value - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 8.290272143e-3f;
    p = p * r + 4.189815983e-2f;
    p = p * r + 1.666763813e-1f;
    p = p * r + 4.999914784e-1f;
    p = p * r + 9.999997063e-1f;
    p = p * r + 1.0f;
    return p * (kd_float_bits){.bits = (shifted.bits << 23) + 0x3f800000u}.value;
}

KD_INLINE float kd_sigmoid(float x)
{
    const float e = kd_exp(x < 0.0f ? x : -x);
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

#endif
