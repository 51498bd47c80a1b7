#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>

#include "base/option.h"

static const struct option known[] = {
    {"output", required_argument, NULL, 'o'},
    {"json", no_argument, NULL, 'j'},
    {0},
};

static void set_up(void)
{
    kd_fault_quiet(1);
}

TestSuite(option, .init = set_up);

/* The letters and values met, "o=a j ", and the status that ended it. */
static kd_status read_all(const char *letters, char *const *argv, char *seen, size_t size)
{
    int argc = 0, letter = 0;
    kd_status st;
    while (argv[argc] != NULL) {
        argc++;
    }
    seen[0] = '\0';
    kd_option_begin();
    while (!(st = kd_option_next(argc, argv, letters, known, &letter)) && letter != KD_OPTION_END) {
        const size_t used = strlen(seen);
        (void)snprintf(seen + used, size - used, "%c%s%s ", letter == KD_OPTION_WORD ? '.' : letter,
                       letter == 'j' ? "" : "=", letter == 'j' ? "" : optarg);
    }
    return st;
}

Test(option, values_stand_behind_or_within)
{
    char seen[128];
    char *argv[] = {"p", "--output", "a", "--json", "--output=b", "-o", "c", "-od", NULL};
    cr_assert(eq(int, read_all(":o:", argv, seen, sizeof seen), KD_OK));
    cr_expect(eq(str, seen, "o=a j o=b o=c o=d "));
}

Test(option, words_come_last_or_in_their_place)
{
    char seen[128];
    char *argv[] = {"p", "x", "--json", "y", NULL};
    cr_assert(eq(int, read_all("-:", argv, seen, sizeof seen), KD_OK));
    cr_expect(eq(str, seen, ".=x j .=y "));
    cr_assert(eq(int, read_all(":", argv, seen, sizeof seen), KD_OK));
    cr_expect(eq(str, seen, "j "));
    cr_assert(eq(int, optind, 2));
    cr_expect(eq(str, argv[2], "x"));
}

Test(option, mistakes_are_named_and_the_next_line_starts_anew)
{
    char seen[128];
    char *bad[][4] = {
        {"p", "--outptu=a", NULL}, {"p", "--output", NULL}, {"p", "--json=1", NULL},
        {"p", "-x", NULL},         {"p", "-o", NULL},       {"p", "--zzzzzzz", NULL},
    };
    const char *const faults[] = {
        "--outptu=a: no such option; did you mean \"--output\"?; see --help",
        "--output: expected a value behind it; see --help",
        "--json=1: expected no value; see --help",
        "-x: no such option; see --help",
        "-o: expected a value behind it; see --help",
        "--zzzzzzz: no such option; see --help",
    };
    char *good[] = {"p", "--json", NULL};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        cr_expect(eq(int, read_all(":o:", bad[i], seen, sizeof seen), KD_ERR_ARG));
        cr_expect(eq(str, (char *)kd_fault_text(), (char *)faults[i]));
        cr_expect(eq(int, read_all(":o:", good, seen, sizeof seen), KD_OK));
        cr_expect(eq(str, seen, "j "));
    }
}

Test(option, numbers_are_whole_and_within_bounds)
{
    uint32_t n = 7;
    const char *const wrong[] = {"", "-1", "+1", " 1", "1x", "0", "11", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        cr_expect(eq(int, kd_option_number("--n", wrong[i], 1, 10, &n), KD_ERR_ARG));
        cr_expect(eq(u32, n, 7));
    }
    cr_expect(ne(ptr, strstr(kd_fault_text(), "--n: found"), NULL));
    cr_assert(eq(int, kd_option_number("--n", "10", 1, 10, &n), KD_OK));
    cr_expect(eq(u32, n, 10));
}

Test(option, a_number_of_64_bits_may_be_any)
{
    uint64_t n = 7;
    cr_expect(
        eq(int, kd_option_number64("--n", "18446744073709551616", 0, UINT64_MAX, &n), KD_ERR_ARG));
    cr_expect(eq(u64, n, 7));
    cr_assert(eq(int, kd_option_number64("--n", "18446744073709551615", 0, UINT64_MAX, &n), KD_OK));
    cr_expect(eq(u64, n, UINT64_MAX));
}

Test(option, the_log_level_is_set_by_name)
{
    cr_assert(eq(int, kd_option_log_level("warn"), KD_OK));
    cr_expect(eq(int, (int)kd_log_get_level(), KD_LOG_WARN));
    cr_expect(eq(int, kd_option_log_level("loud"), KD_ERR_ARG));
    cr_expect(eq(str, (char *)kd_fault_text(),
                 "--log-level: found \"loud\", expected debug, info, warn or error"));
    cr_expect(eq(int, (int)kd_log_get_level(), KD_LOG_WARN));
}
