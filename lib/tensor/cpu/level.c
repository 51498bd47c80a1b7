/*
 * level.c - chosen when a back end is made, not when it is built: one binary then runs on any processor of
 * its kind, and the tests try lesser ones on this.
 */
#include "tensor/cpu/level.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#if defined(__x86_64__)
extern const kd_cpu_level kd_cpu_level_v2, kd_cpu_level_v3, kd_cpu_level_v4;

/* By the features that compilers ask for by name; no processor has these without the level's others. */
static bool has_v2(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}

static bool has_v3(void)
{
    return has_v2() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#else
extern const kd_cpu_level kd_cpu_level_base;

static bool has_base(void)
{
    return true;
}
#endif

/* Lowest first. */
static const struct {
    const kd_cpu_level *level;
    bool (*is_here)(void);
} levels[] = {
#if defined(__x86_64__)
    {&kd_cpu_level_v2, has_v2},
    {&kd_cpu_level_v3, has_v3},
    {&kd_cpu_level_v4, has_v4},
#else
    {&kd_cpu_level_base, has_base},
#endif
};

enum { N_LEVELS = sizeof levels / sizeof *levels };

_Static_assert(N_LEVELS <= KD_CPU_LEVELS_MAX, "who counts levels has room");

/* How many levels KD_CPU_LEVEL leaves; 0 if it names none of them. */
static int n_allowed(const char *limit)
{
    for (int i = 0; limit != NULL && i < N_LEVELS; i++) {
        if (strcmp(levels[i].level->name, limit) == 0) {
            return i + 1;
        }
    }
    return limit == NULL || *limit == '\0' ? N_LEVELS : 0;
}

/* The highest of the first n that is here and of that name, if one is given; NULL without one. */
static const kd_cpu_level *find(const char *name, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        const kd_cpu_level *level = levels[i].level;
        if ((name == NULL || strcmp(level->name, name) == 0) && levels[i].is_here()) {
            return level;
        }
    }
    return NULL;
}

const char *kd_cpu_level_name(int i)
{
    return i >= 0 && i < N_LEVELS ? levels[i].level->name : NULL;
}

bool kd_cpu_has_level(const char *name)
{
    return find(name, n_allowed(getenv("KD_CPU_LEVEL"))) != NULL;
}

kd_status kd_cpu_level_choose(const char *name, const kd_cpu_level **level_out)
{
    const char *limit = getenv("KD_CPU_LEVEL");
    const int n = n_allowed(limit);
    if (n == 0) {
        return kd_fail(KD_ERR_ARG, "KD_CPU_LEVEL: found \"%s\", expected %s to %s", limit,
                       levels[0].level->name, levels[N_LEVELS - 1].level->name);
    }
    const kd_cpu_level *level = find(name, n);
    if (level == NULL && name != NULL) {
        return kd_fail(KD_ERR_ARG, "found the level %s of kernels, which is not to be had here",
                       name);
    }
    if (level == NULL) {
        return kd_fail(KD_ERR_IO, "this processor is older than the level %s of its kind",
                       levels[0].level->name);
    }
    *level_out = level;
    return KD_OK;
}
