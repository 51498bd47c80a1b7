/*
 * cuda_types.h - what CUDA C++ adds to the language, as far as kernels here use it: qualifiers, vector
 * types, and shared memory by KD_SHARED.
 */
#ifndef KD_CUDA_HOST_TYPES_H
#define KD_CUDA_HOST_TYPES_H

#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

/* Shared variables live in the block's arena, not in static storage: clusters need several copies
 * alive at once, at equal offsets; and the arena is poisoned and fenced. Hence KD_SHARED only. */
#define __shared__ _Pragma("GCC error \"declare shared memory with KD_SHARED or KD_DYN_SHARED\"")
#define KD_SHARED(T, name, ...)                                                                    \
    typedef T name##_type __VA_ARGS__;                                                             \
    static char name##_key;                                                                        \
    name##_type &name = *(name##_type *)kd_host::shared_static(                                    \
        &name##_key, #name, sizeof(name##_type), alignof(name##_type))
#define KD_DYN_SHARED(T, name, align) T *name = (T *)kd_host::shared_dynamic(align)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;

    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz)
    {
    }
};

#define KD_VECTOR_TYPES(T, N2, N4)                                                                 \
    struct alignas(2 * sizeof(T)) N2 {                                                             \
        T x, y;                                                                                    \
    };                                                                                             \
    struct alignas(4 * sizeof(T)) N4 {                                                             \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline N2 make_##N2(T x, T y)                                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline N4 make_##N4(T x, T y, T z, T w)                                                 \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
KD_VECTOR_TYPES(float, float2, float4)
KD_VECTOR_TYPES(int, int2, int4)
KD_VECTOR_TYPES(unsigned, uint2, uint4)
KD_VECTOR_TYPES(unsigned short, ushort2, ushort4)
#undef KD_VECTOR_TYPES

/* The same bits as another type. */
template <class To, class From> static inline To kd_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

#endif
