/*
 * criterion.h - stands in for the library of that name where there is none: as much of it as the tests of
 * operations use, with the same meaning. runner.c has main().
 *
 * cr_assert* ends the test, cr_expect* notes a failure and goes on. A format and its arguments may follow.
 *
 * Threads: tests run one after another, checks on the thread that runs them.
 */
#ifndef KD_TESTS_GPU_CRITERION_H
#define KD_TESTS_GPU_CRITERION_H

#pragma GCC system_header /* a call without a format is pedantically none */

#include <stdbool.h>
#include <stddef.h>

typedef struct gpu_test {
    const char *suite, *name;
    void (*run)(void);
    struct gpu_test *next;
} gpu_test;

/* Before main(). */
void gpu_test_add(gpu_test *test);

/* `text` is the claim as it stands in the source, `format` what the test adds. */
__attribute__((format(printf, 6, 7))) void gpu_check(bool holds,
                                                     bool ends,
                                                     const char *file,
                                                     int line,
                                                     const char *text,
                                                     const char *format,
                                                     ...);

#define Test(suite_, name_)                                                                        \
    static void suite_##_##name_##_run(void);                                                      \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                          \
    {                                                                                              \
        static gpu_test test = {#suite_, #name_, suite_##_##name_##_run, NULL};                    \
        gpu_test_add(&test);                                                                       \
    }                                                                                              \
    static void suite_##_##name_##_run(void)

#define GPU_CHECK(ends, condition, text, ...)                                                      \
    gpu_check((condition), ends, __FILE__, __LINE__, text, " " __VA_ARGS__)
#define GPU_COMPARE(ends, a, op, b, ...) GPU_CHECK(ends, (a)op(b), #a " " #op " " #b, __VA_ARGS__)

#define cr_assert(x, ...)          GPU_CHECK(true, x, #x, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)    GPU_COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)   GPU_COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)    GPU_COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)   GPU_COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)    GPU_COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)   GPU_COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_assert_null(a, ...)     GPU_COMPARE(true, a, ==, NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...) GPU_COMPARE(true, a, !=, NULL, __VA_ARGS__)
#define cr_expect(x, ...)          GPU_CHECK(false, x, #x, __VA_ARGS__)
#define cr_expect_not(x, ...)      GPU_CHECK(false, !(x), "!(" #x ")", __VA_ARGS__)
#define cr_expect_eq(a, b, ...)    GPU_COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)   GPU_COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)    GPU_COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)   GPU_COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)    GPU_COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)   GPU_COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_expect_null(a, ...)     GPU_COMPARE(false, a, ==, NULL, __VA_ARGS__)
#define cr_expect_not_null(a, ...) GPU_COMPARE(false, a, !=, NULL, __VA_ARGS__)
#define cr_expect_float_eq(a, b, epsilon, ...)                                                     \
    GPU_CHECK(false, (a) - (b) <= (epsilon) && (b) - (a) <= (epsilon), #a " is near " #b,          \
              __VA_ARGS__)

#endif
