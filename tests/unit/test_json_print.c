#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>

#include "base/json_print.h"

static void print_all(kd_json_printer *p)
{
    kd_json_begin(p, '{');
    kd_json_key(p, "a \"b\"");
    kd_json_begin(p, '[');
    kd_json_int(p, INT64_MIN);
    kd_json_uint(p, UINT64_MAX);
    kd_json_begin(p, '{');
    kd_json_end(p, '}');
    kd_json_begin(p, '[');
    kd_json_end(p, ']');
    kd_json_bool(p, true);
    kd_json_end(p, ']');
    kd_json_key(p, "c");
    kd_json_string(p, NULL);
    kd_json_key(p, "d");
    kd_json_string(p, "x\n");
    kd_json_key(p, "e");
    kd_json_hex(p, 0x4d2);
    kd_json_end(p, '}');
}

static void expect_all(bool is_indented, const char *expected)
{
    kd_text text = {0};
    kd_json_printer p = {.text = &text, .is_indented = is_indented};
    print_all(&p);
    cr_expect(eq(str, text.data, (char *)expected));
    cr_expect(eq(int, (int)p.depth, 0));
    kd_text_release(&text);
}

Test(json_print, commas_and_breaks_come_by_themselves)
{
    expect_all(false, "{\"a \\\"b\\\"\":[-9223372036854775808,18446744073709551615,{},[],true],"
                      "\"c\":null,\"d\":\"x\\n\",\"e\":\"00000000000004d2\"}");
    expect_all(true, "{\n  \"a \\\"b\\\"\": [\n    -9223372036854775808,\n"
                     "    18446744073709551615,\n    {},\n    [],\n    true\n  ],\n"
                     "  \"c\": null,\n  \"d\": \"x\\n\",\n  \"e\": \"00000000000004d2\"\n}");
}

static void expect_numbers(double number, const char *as_double, const char *as_real)
{
    kd_text text = {0};
    kd_json_double(&(kd_json_printer){.text = &text}, number);
    cr_expect(eq(str, text.data, (char *)as_double));
    kd_text_clear(&text);
    kd_json_real(&(kd_json_printer){.text = &text}, number);
    cr_expect(eq(str, text.data, (char *)as_real));
    kd_text_release(&text);
}

Test(json_print, numbers_have_as_few_digits_as_read_back_the_same)
{
    expect_numbers(10000, "10000", "10000.0");
    expect_numbers(0.1, "0.1", "0.1");
    expect_numbers(1e-6, "1e-06", "1e-6");
    expect_numbers(1e20, "1e+20", "1e20");
    expect_numbers(-1.5e-300, "-1.5e-300", "-1.5e-300");
    expect_numbers(1.0 / 3, "0.3333333333333333", "0.3333333333333333");
    expect_numbers(NAN, "null", "null");
    expect_numbers(-INFINITY, "null", "null");
}
