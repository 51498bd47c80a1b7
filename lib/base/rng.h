/*
 * rng.h - random numbers as a pure function of (key, counter).
 *
 * No state: whoever asks for the same key and counter gets the same number, on any
 * rank, in any order. The mixer is SplitMix64's finaliser applied to key and counter
 * (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
 */
#ifndef KD_BASE_RNG_H
#define KD_BASE_RNG_H

#include <stdint.h>

/* 64 uniform bits. */
uint64_t kd_rng_u64(uint64_t key, uint64_t counter);

/* A key of its own for a named purpose under a seed, e.g. ("init", seed). */
uint64_t kd_rng_key(uint64_t seed, const char *purpose);

/* Uniform in [0, 1), 53 bits. */
double kd_rng_uniform(uint64_t key, uint64_t counter);

/* Standard normal (Box and Muller). */
double kd_rng_normal(uint64_t key, uint64_t counter);

/*
 * Image of `index` under a keyed permutation of [0, n): a four-round Feistel network over the
 * next even power of two, walked until it lands below n. 0 < n <= 2^62, index < n.
 */
uint64_t kd_rng_permute(uint64_t key, uint64_t index, uint64_t n);

#endif
