/* half.h - the two 16-bit floating-point formats of checkpoints, one value at a time. */
#ifndef KD_FORMAT_HALF_H
#define KD_FORMAT_HALF_H

#include <stdint.h>
#include <string.h>

static inline float kd_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t kd_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float kd_f32_from_bf16(uint16_t half)
{
    return kd_f32_from_bits((uint32_t)half << 16);
}

/* Rounds to the nearest, ties to even; a NaN stays a (quiet) NaN. */
static inline uint16_t kd_bf16_from_f32(float value)
{
    const uint32_t bits = kd_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x0040u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* IEEE 754 binary16; exact, subnormals included. */
static inline float kd_f32_from_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu;
    const uint32_t fraction = half & 0x3ffu;

    if (exponent == 0x1fu) { /* infinity, NaN */
        return kd_f32_from_bits(sign | 0x7f800000u | fraction << 13);
    }
    if (exponent == 0) { /* fraction * 2^-24 */
        const float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return kd_f32_from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

#endif
