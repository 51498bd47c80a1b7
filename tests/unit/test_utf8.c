#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/utf8.h"

Test(utf8, a_character_is_its_bytes_and_its_number)
{
    static const struct {
        const char *bytes;
        size_t n;
        uint32_t code;
    } cases[] = {
        {"a", 1, 'a'},
        {"\x7f", 1, 0x7f},
        {"\xc2\x9b", 2, 0x9b},
        {"\xc3\xa4", 2, 0xe4},
        {"\xe2\x80\xa9", 3, 0x2029},
        {"\xf0\x9f\x98\x80", 4, 0x1f600},
        {"\xf4\x8f\xbf\xbf", 4, 0x10ffff},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code = 0;
        cr_expect(
            eq(sz, kd_utf8_decode(cases[i].bytes, strlen(cases[i].bytes), &code), cases[i].n));
        cr_expect(eq(u32, code, cases[i].code));
        cr_expect(eq(sz, kd_utf8_decode(cases[i].bytes, cases[i].n - 1, &code), 0), "cut off");
    }
}

Test(utf8, what_is_no_character_is_told_and_changes_nothing)
{
    static const char *const cases[] = {
        "\xff",             /* never a first byte */
        "\x80",             /* never one either */
        "\xc3(",            /* no second one */
        "\xc0\xaf",         /* overlong */
        "\xed\xa0\x80",     /* a surrogate */
        "\xf4\x90\x80\x80", /* above U+10FFFF */
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t code = 77;
        cr_expect(eq(sz, kd_utf8_decode(cases[i], strlen(cases[i]), &code), 0), "case %zu", i);
        cr_expect(eq(u32, code, 77));
    }
}

Test(utf8, controls_are_those_of_ascii_and_the_ones_above_it)
{
    static const uint32_t controls[] = {0, 0x1b, 0x1f, 0x7f, 0x80, 0x9b, 0x9f};
    static const uint32_t others[] = {' ', '~', 0xa0, 0xe4, 0x2028};
    for (size_t i = 0; i < sizeof controls / sizeof *controls; i++) {
        cr_expect(kd_utf8_is_control(controls[i]), "U+%04X", (unsigned)controls[i]);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        cr_expect(not(kd_utf8_is_control(others[i])), "U+%04X", (unsigned)others[i]);
    }
}

Test(utf8, a_string_is_text_up_to_the_first_byte_that_is_none)
{
    const struct {
        const char *string;
        size_t span;
    } cases[] = {{"", 0},       {"/plain", 6}, {"/gr\xc3\xbc.", 6}, {"\xf0\x9f\x8c\x8d", 4},
                 {"/\xff/", 1}, {"ab\xc3", 2}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(eq(sz, kd_utf8_span(cases[i].string), cases[i].span), "case %zu", i);
    }
}
