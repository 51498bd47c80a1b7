/*
 * cuda_math.h - arithmetic intrinsics. Where the device has a fast approximation this is the exact function:
 * compare results by a norm.
 */
#ifndef KD_CUDA_HOST_MATH_H
#define KD_CUDA_HOST_MATH_H

#include "cuda_types.h"

#include <cmath>

#define __expf(x)  expf(x) /* macros: glibc has functions of these names */
#define __logf(x)  logf(x)
#define __exp2f(x) exp2f(x)
#define __log2f(x) log2f(x)

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

static inline float __frsqrt_rn(float x)
{
    return 1.0f / sqrtf(x);
}

static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline int __float_as_int(float f)
{
    return kd_bits<int>(f);
}

static inline unsigned __float_as_uint(float f)
{
    return kd_bits<unsigned>(f);
}

static inline float __int_as_float(int i)
{
    return kd_bits<float>(i);
}

static inline float __uint_as_float(unsigned u)
{
    return kd_bits<float>(u);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline unsigned __brev(unsigned x)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (x >> i & 1) << (31 - i);
    return r;
}

template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}

template <class T> static inline void __stcs(T *p, T v)
{
    *p = v;
}

#endif
