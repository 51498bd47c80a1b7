/*
 * rng.c - counters instead of states, because a number must not depend on who asked before: another cut of
 * the work, or a pass that is run again, draws the same.
 */
#include "base/rng.h"

#include <math.h>

#include "base/status.h"

#define GOLDEN_GAMMA UINT64_C(0x9e3779b97f4a7c15) /* 2^64 over the golden ratio, odd */

enum { FEISTEL_ROUNDS = 4 };

/* SplitMix64's finaliser: a bijection in which each input bit moves half of the output bits. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* The key is mixed first, so that neighbouring keys are not the same stream shifted by one. */
uint64_t kd_rng_u64(uint64_t key, uint64_t counter)
{
    return mix(mix(key + GOLDEN_GAMMA) + (counter + 1) * GOLDEN_GAMMA);
}

uint64_t kd_rng_key(uint64_t seed, const char *purpose)
{
    uint64_t key = mix(seed + GOLDEN_GAMMA);
    for (const char *c = purpose; *c != '\0'; c++) {
        key = mix((key ^ (unsigned char)*c) + GOLDEN_GAMMA);
    }
    return key;
}

double kd_rng_uniform(uint64_t key, uint64_t counter)
{
    return (double)(kd_rng_u64(key, counter) >> 11) * 0x1p-53;
}

double kd_rng_normal(uint64_t key, uint64_t counter)
{
    const double two_pi = 6.283185307179586;
    const double radius_u = 1.0 - kd_rng_uniform(key, 2 * counter); /* (0, 1]: log is finite */
    const double angle_u = kd_rng_uniform(key, 2 * counter + 1);
    return sqrt(-2.0 * log(radius_u)) * cos(two_pi * angle_u);
}

/* Half the bits of the smallest even power of two that is at least n; n > 1. */
static unsigned half_bits_for(uint64_t n)
{
    const unsigned bits = 64u - (unsigned)__builtin_clzll(n - 1);
    return (bits + 1) / 2;
}

static uint64_t feistel(uint64_t key, uint64_t x, unsigned half_bits)
{
    const uint64_t mask = (UINT64_C(1) << half_bits) - 1;
    uint64_t left = x >> half_bits, right = x & mask;

    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
        const uint64_t next = left ^ (kd_rng_u64(key + round, right) & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

uint64_t kd_rng_permute(uint64_t key, uint64_t index, uint64_t n)
{
    KD_CHECK(n > 0 && n <= UINT64_C(1) << 62 && index < n);
    if (n == 1) {
        return 0;
    }
    const unsigned half_bits = half_bits_for(n);
    uint64_t x = index;
    do { /* the cycle through index comes back to it, so it meets a value below n */
        x = feistel(key, x, half_bits);
    } while (x >= n);
    return x;
}
