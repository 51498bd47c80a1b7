/*
 * half.h - the two 16-bit floating-point formats, one value at a time.
 *
 * Conversions of bf16 have no branch and are always inlined, so that a loop over them becomes vectors.
 *
 * Pure. Threads: any.
 */
#ifndef KD_TENSOR_HALF_H
#define KD_TENSOR_HALF_H

#include <stdint.h>

#define KD_INLINE static inline __attribute__((always_inline))

typedef union kd_float_bits {
    float value;
    uint32_t bits;
} kd_float_bits;

KD_INLINE float kd_bf16_to_f32(uint16_t x)
{
    return (kd_float_bits){.bits = (uint32_t)x << 16}.value;
}

/* To the nearest, ties to even; a NaN stays a NaN, whatever its payload. */
KD_INLINE uint16_t kd_bf16_from_f32(float x)
{
    const uint32_t bits = (kd_float_bits){.value = x}.bits;
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : nearest);
}

/* IEEE 754 binary16; exact, subnormals included. */
static inline float kd_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu;
    const uint32_t fraction = half & 0x3ffu;

    if (exponent == 0x1fu) { /* infinity, NaN */
        return (kd_float_bits){.bits = sign | 0x7f800000u | fraction << 13}.value;
    }
    if (exponent == 0) { /* fraction * 2^-24 */
        const float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return (kd_float_bits){.bits = sign | (exponent + 127 - 15) << 23 | fraction << 13}.value;
}

#endif
