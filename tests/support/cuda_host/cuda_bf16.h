/*
 * cuda_bf16.h - the bf16 types and conversions, in the place of CUDA's header of that name.
 */
#ifndef KD_CUDA_HOST_BF16_H
#define KD_CUDA_HOST_BF16_H

#include "cuda_types.h"

struct __nv_bfloat16 {
    unsigned short bits;
};

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 v)
{
    return kd_bits<float>((unsigned)v.bits << 16);
}

/* To the nearest, ties to even; any NaN becomes 0x7fff. */
static inline __nv_bfloat16 __float2bfloat16(float f)
{
    unsigned u = kd_bits<unsigned>(f);
    if (f != f)
        return {0x7fff};
    return {(unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat16 __float2bfloat16_rn(float f)
{
    return __float2bfloat16(f);
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b)
{
    return {__float2bfloat16(a), __float2bfloat16(b)};
}

static inline float2 __bfloat1622float2(__nv_bfloat162 v)
{
    return {__bfloat162float(v.x), __bfloat162float(v.y)};
}

static inline float __low2float(__nv_bfloat162 v)
{
    return __bfloat162float(v.x);
}

static inline float __high2float(__nv_bfloat162 v)
{
    return __bfloat162float(v.y);
}

static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}

static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v)
{
    return v.bits;
}

#endif
