#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message/json.h"
#include "proto/control.pb-c.h"

static void expect_json(const ProtobufCMessage *message, unsigned flags, const char *expected)
{
    kd_text text = {0};
    kd_json_print(&text, message, flags);
    cr_assert(not(text.failed));
    cr_expect(eq(str, text.data, (char *)expected));
    kd_text_release(&text);
}

static void expect_string(const char *string, size_t size, const char *expected)
{
    kd_text text = {0};
    kd_json_add_string(&text, string, size);
    cr_expect(eq(str, text.data, (char *)expected));
    kd_text_release(&text);
}

static void expect_double(double number, const char *expected)
{
    kd_text text = {0};
    kd_json_double(&(kd_json_printer){.text = &text}, number);
    cr_expect(eq(str, text.data, (char *)expected));
    kd_text_release(&text);
}

Test(json, set_fields_only)
{
    Kd__JobStatus status = KD__JOB_STATUS__INIT;
    Kd__Loss loss = KD__LOSS__INIT;
    Kd__Loss *losses[] = {&loss, &loss};
    status.has_id = status.has_state = status.has_loss = 1;
    status.id = UINT64_MAX;
    status.state = KD__JOB_STATE__RUNNING;
    status.loss = NAN;
    status.n_losses = 2;
    status.losses = losses;
    loss.name = "kd";
    loss.has_raw = 1;
    loss.raw = 0.1;
    expect_json(&status.base, KD_JSON_SET_ONLY,
                "{\"id\":18446744073709551615,\"state\":\"running\",\"losses\":[{\"name\":\"kd\","
                "\"raw\":0.1},{\"name\":\"kd\",\"raw\":0.1}],\"loss\":null}");
}

Test(json, defaults_are_shown_when_asked_for)
{
    const Kd__Schedule schedule = KD__SCHEDULE__INIT;
    expect_json(&schedule.base, KD_JSON_SET_ONLY, "{}");
    expect_json(&schedule.base, KD_JSON_DEFAULTS,
                "{\"value\":null,\"kind\":\"linear\",\"points\":[]}");
    const Kd__Student student = KD__STUDENT__INIT;
    expect_json(&student.base, KD_JSON_DEFAULTS,
                "{\"init\":\"random\",\"checkpoint\":null,\"model\":null,\"seed\":null,"
                "\"resources\":null,\"verify\":\"edges\"}");
}

Test(json, only_the_set_member_of_a_oneof_is_shown)
{
    Kd__Request request = KD__REQUEST__INIT;
    Kd__ListRequest list = KD__LIST_REQUEST__INIT;
    request.body_case = KD__REQUEST__BODY_LIST;
    request.list = &list;
    expect_json(&request.base, KD_JSON_DEFAULTS, "{\"id\":null,\"list\":{}}");
}

Test(json, indented_for_people)
{
    Kd__Data data = KD__DATA__INIT;
    char *files[] = {"/a", "/b"};
    data.n_files = 2;
    data.files = files;
    data.has_held_out = 1;
    data.held_out = 0.05;
    expect_json(&data.base, KD_JSON_INDENT,
                "{\n  \"files\": [\n    \"/a\",\n    \"/b\"\n  ],\n  \"held_out\": 0.05\n}");
}

Test(json, bytes_are_base64_of_every_length)
{
    const char *const expected[] = {"{\"data\":\"\"}", "{\"data\":\"/w==\"}", "{\"data\":\"/wA=\"}",
                                    "{\"data\":\"/wBh\"}", "{\"data\":\"/wBhYg==\"}"};
    for (size_t n = 0; n < sizeof expected / sizeof *expected; n++) {
        Kd__LogChunk chunk = KD__LOG_CHUNK__INIT;
        chunk.has_data = 1;
        chunk.data.len = n;
        chunk.data.data = (uint8_t *)"\xff\0ab";
        expect_json(&chunk.base, KD_JSON_SET_ONLY, expected[n]);
    }
}

Test(json, strings_are_escaped)
{
    expect_string("plain", 5, "\"plain\"");
    expect_string("\"\\\n\t\r\x01\x7f", 7, "\"\\\"\\\\\\n\\t\\u000d\\u0001\\u007f\"");
    expect_string("\xc3\xa4 \xf0\x9f\x98\x80", 7, "\"\xc3\xa4 \xf0\x9f\x98\x80\"");
    expect_string("\xc2\x85\xef\xbb\xbf", 5, "\"\\u0085\\ufeff\"");
    expect_string("\xe2\x80\xa8", 3, "\"\\u2028\"");
    expect_string("a\0b", 3, "\"a\\u0000b\"");
}

Test(json, bytes_that_are_no_utf8_become_the_replacement_character)
{
    expect_string("\xff", 1, "\"\\ufffd\"");
    expect_string("\xc3", 1, "\"\\ufffd\"");
    expect_string("\xc0\x80", 2, "\"\\ufffd\\ufffd\"");                       /* overlong */
    expect_string("\xed\xa0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"");            /* surrogate */
    expect_string("\xf5\x80\x80\x80", 4, "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); /* too high */
}

Test(json, doubles_have_as_few_digits_as_read_back_the_same)
{
    expect_double(0.1, "0.1");
    expect_double(1.0 / 3.0, "0.3333333333333333");
    expect_double(3.0, "3");
    expect_double(1e-8, "1e-08");
    expect_double(5e-324, "4.94065645841247e-324");
    expect_double(0.1 + 0.2, "0.30000000000000004");
    expect_double(-INFINITY, "null");
}
