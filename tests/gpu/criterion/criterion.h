/*
 * criterion.h - stands in for the library of that name where there is none: as much of it as the tests of
 * operations, models and training use, with the same meaning. runner.c has main().
 *
 * cr_assert* ends the test, cr_expect* notes a failure and goes on. A format and its arguments may follow.
 *
 * A fixture's .init and .fini run around each test of a suite, and around one that names its own, inside those.
 *
 * Threads: tests of a process run one after another, checks on the thread that runs them.
 */
#ifndef KD_TESTS_GPU_CRITERION_H
#define KD_TESTS_GPU_CRITERION_H

#pragma GCC system_header /* a call without a format is pedantically none */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* NULL: nothing to do. */
typedef struct gpu_fixture {
    void (*init)(void);
    void (*fini)(void);
} gpu_fixture;

typedef struct gpu_suite {
    const char *name;
    gpu_fixture fixture;
    struct gpu_suite *next;
} gpu_suite;

typedef struct gpu_test {
    const char *suite, *name;
    void (*run)(void);
    gpu_fixture fixture;
    struct gpu_test *next;
} gpu_test;

/* Before main(). */
void gpu_suite_add(gpu_suite *suite);
void gpu_test_add(gpu_test *test);

/* `text` is the claim as it stands in the source, `format` what the test adds. */
__attribute__((format(printf, 6, 7))) void gpu_check(bool holds,
                                                     bool ends,
                                                     const char *file,
                                                     int line,
                                                     const char *text,
                                                     const char *format,
                                                     ...);

#define TestSuite(name_, ...)                                                                      \
    __attribute__((constructor)) static void name_##_suite_add(void)                               \
    {                                                                                              \
        static gpu_suite suite = {#name_, {__VA_ARGS__}, NULL};                                    \
        gpu_suite_add(&suite);                                                                     \
    }                                                                                              \
    extern int gpu_swallows_the_semicolon

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_run(void);                                                      \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                          \
    {                                                                                              \
        static gpu_test test = {#suite_, #name_, suite_##_##name_##_run, {__VA_ARGS__}, NULL};     \
        gpu_test_add(&test);                                                                       \
    }                                                                                              \
    static void suite_##_##name_##_run(void)

#define GPU_CHECK(ends, condition, text, ...)                                                      \
    gpu_check((condition), ends, __FILE__, __LINE__, text, " " __VA_ARGS__)
#define GPU_COMPARE(ends, a, op, b, ...) GPU_CHECK(ends, (a)op(b), #a " " #op " " #b, __VA_ARGS__)

#define GPU_SAME_TEXT(ends, a, b, ...)                                                             \
    GPU_CHECK(ends, strcmp(a, b) == 0, #a " is the text " #b, __VA_ARGS__)
#define GPU_NEAR(ends, a, b, epsilon, ...)                                                         \
    GPU_CHECK(ends, (a) - (b) <= (epsilon) && (b) - (a) <= (epsilon), #a " is near " #b,           \
              __VA_ARGS__)

#define cr_assert(x, ...)                      GPU_CHECK(true, x, #x, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)                GPU_COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)               GPU_COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)                GPU_COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)               GPU_COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)                GPU_COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)               GPU_COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_assert_null(a, ...)                 GPU_COMPARE(true, a, ==, NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...)             GPU_COMPARE(true, a, !=, NULL, __VA_ARGS__)
#define cr_expect(x, ...)                      GPU_CHECK(false, x, #x, __VA_ARGS__)
#define cr_expect_not(x, ...)                  GPU_CHECK(false, !(x), "!(" #x ")", __VA_ARGS__)
#define cr_expect_eq(a, b, ...)                GPU_COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)               GPU_COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)                GPU_COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)               GPU_COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)                GPU_COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)               GPU_COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_expect_null(a, ...)                 GPU_COMPARE(false, a, ==, NULL, __VA_ARGS__)
#define cr_expect_not_null(a, ...)             GPU_COMPARE(false, a, !=, NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)            GPU_SAME_TEXT(true, a, b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)            GPU_SAME_TEXT(false, a, b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, epsilon, ...) GPU_NEAR(true, a, b, epsilon, __VA_ARGS__)
#define cr_expect_float_eq(a, b, epsilon, ...) GPU_NEAR(false, a, b, epsilon, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, size_bytes, ...)                                                    \
    GPU_CHECK(false, memcmp(a, b, size_bytes) == 0, #a " has the bytes of " #b, __VA_ARGS__)

#endif
