/*
 * json_print.c - one bit says whether something stands before the next element, so that no caller counts
 * for commas. What YAML reads otherwise than JSON is escaped, because both read these files.
 */
#include "base/json_print.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/utf8.h"

/*
 * Controls, line breaks of Unicode, the byte order mark and what is no character: not safe in YAML.
 */
static bool must_escape(uint32_t code)
{
    return kd_utf8_is_control(code) || code == 0x2028 || code == 0x2029 || code == 0xfeff ||
           code == 0xfffe || code == 0xffff;
}

static void print_character(kd_text *text, const char *bytes, size_t n, uint32_t code)
{
    if (code == '"' || code == '\\') {
        kd_text_add(text, "\\");
        kd_text_add_bytes(text, bytes, n);
    } else if (code == '\n') {
        kd_text_add(text, "\\n");
    } else if (code == '\t') {
        kd_text_add(text, "\\t");
    } else if (must_escape(code)) {
        kd_text_printf(text, "\\u%04x", (unsigned)code);
    } else {
        kd_text_add_bytes(text, bytes, n);
    }
}

void kd_json_add_string(kd_text *text, const char *string, size_t size_bytes)
{
    kd_text_add(text, "\"");
    while (size_bytes > 0) {
        uint32_t code = 0;
        size_t n = kd_utf8_decode(string, size_bytes, &code);
        if (n > 0) {
            print_character(text, string, n, code);
        } else {
            kd_text_add(text, "\\ufffd");
            n = 1;
        }
        string += n;
        size_bytes -= n;
    }
    kd_text_add(text, "\"");
}

static void print_break(const kd_json_printer *p)
{
    if (p->is_indented) {
        kd_text_add(p->text, "\n");
        for (unsigned i = 0; i < p->depth; i++) {
            kd_text_add(p->text, "  ");
        }
    }
}

/* What stands before an element: nothing behind its key, else what parts it from the one before. */
static void begin_element(kd_json_printer *p)
{
    if (p->is_after_key) {
        p->is_after_key = false;
        return;
    }
    if (p->is_filled) {
        kd_text_add(p->text, ",");
    }
    if (p->depth > 0) {
        print_break(p);
    }
    p->is_filled = true;
}

void kd_json_begin(kd_json_printer *p, char bracket)
{
    begin_element(p);
    kd_text_add_bytes(p->text, &bracket, 1);
    p->depth++;
    p->is_filled = false;
}

void kd_json_end(kd_json_printer *p, char bracket)
{
    p->depth--;
    if (p->is_filled) {
        print_break(p);
    }
    kd_text_add_bytes(p->text, &bracket, 1);
    p->is_filled = true; /* the level above has this one */
}

void kd_json_key(kd_json_printer *p, const char *name)
{
    begin_element(p);
    kd_json_add_string(p->text, name, strlen(name));
    kd_text_add(p->text, p->is_indented ? ": " : ":");
    p->is_after_key = true;
}

void kd_json_raw(kd_json_printer *p, const char *json)
{
    begin_element(p);
    kd_text_add(p->text, json);
}

void kd_json_bytes(kd_json_printer *p, const char *string, size_t size_bytes)
{
    begin_element(p);
    kd_json_add_string(p->text, string, size_bytes);
}

void kd_json_string(kd_json_printer *p, const char *string)
{
    if (string == NULL) {
        kd_json_null(p);
    } else {
        kd_json_bytes(p, string, strlen(string));
    }
}

void kd_json_int(kd_json_printer *p, int64_t number)
{
    begin_element(p);
    kd_text_printf(p->text, "%" PRId64, number);
}

void kd_json_uint(kd_json_printer *p, uint64_t number)
{
    begin_element(p);
    kd_text_printf(p->text, "%" PRIu64, number);
}

void kd_json_bool(kd_json_printer *p, bool value)
{
    kd_json_raw(p, value ? "true" : "false");
}

void kd_json_null(kd_json_printer *p)
{
    kd_json_raw(p, "null");
}

void kd_json_double(kd_json_printer *p, double number)
{
    if (!isfinite(number)) {
        kd_json_null(p);
        return;
    }
    begin_element(p);
    kd_text_add_double(p->text, number);
}

void kd_json_float(kd_json_printer *p, float number)
{
    if (!isfinite(number)) {
        kd_json_null(p);
        return;
    }
    begin_element(p);
    kd_text_add_float(p->text, number);
}

/* printf's 1e-06 and 1e+20 become 1e-6 and 1e20. */
static void shorten_exponent(kd_text *text, size_t from)
{
    char *at = strchr(text->data + from, 'e');
    if (at == NULL) {
        return;
    }
    at += at[1] == '-' ? 2 : 1;
    const size_t n = strspn(at, "+0");
    memmove(at, at + n, strlen(at + n) + 1);
    text->size -= n;
}

void kd_json_real(kd_json_printer *p, double number)
{
    const size_t from = p->text->size;
    kd_json_double(p, number);
    if (p->text->failed || !isfinite(number)) {
        return;
    }
    if (strpbrk(p->text->data + from, ".e") == NULL) {
        kd_text_add(p->text, ".0");
    }
    shorten_exponent(p->text, from);
}

void kd_json_hex(kd_json_printer *p, uint64_t number)
{
    begin_element(p);
    kd_text_printf(p->text, "\"%016" PRIx64 "\"", number);
}
