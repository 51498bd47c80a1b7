/*
 * scalar.c - stricter than YAML: no words for true but two, no octal, no hexadecimal, and what stands in
 * quotes is text. A misread number trains for days.
 */
#include "message/scalar.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/json_print.h"
#include "base/log.h"
#include "base/utf8.h"
#include "message/reflect.h"

#define QUOTE_BYTES_MAX 60

void kd_scalar_quote(kd_text *text, const char *bytes, size_t length)
{
    const size_t shown = length < QUOTE_BYTES_MAX ? length : QUOTE_BYTES_MAX;
    kd_text_add(text, "\"");
    for (size_t at = 0, n; at < shown; at += n) {
        uint32_t code = 0;
        n = kd_utf8_decode(bytes + at, length - at, &code);
        if (n > 0 && !kd_utf8_is_control(code)) {
            kd_text_add_bytes(text, bytes + at, n);
            continue;
        }
        n = n > 0 ? n : 1;
        for (size_t i = 0; i < n; i++) {
            kd_text_printf(text, "\\x%02x", (unsigned)(unsigned char)bytes[at + i]);
        }
    }
    kd_text_add(text, shown < length ? "...\"" : "\"");
}

bool kd_scalar_is_null(const kd_scalar *s)
{
    return !s->quoted &&
           (s->length == 0 || strcmp(s->text, "~") == 0 || strcasecmp(s->text, "null") == 0);
}

static kd_status expected(kd_text *mistake, const kd_scalar *s, const char *what)
{
    kd_text_printf(mistake, "expected %s, found ", what);
    kd_scalar_quote(mistake, s->text, s->length);
    if (s->quoted) {
        kd_text_add(mistake, " in quotes");
    }
    return KD_ERR_INVALID;
}

/* A 0 in front is refused: YAML 1.1 reads 010 as 8, YAML 1.2 as 10. */
static bool is_whole_number(const kd_scalar *s)
{
    const char *digits = s->text[0] == '-' || s->text[0] == '+' ? s->text + 1 : s->text;
    const size_t n = strspn(digits, "0123456789");
    return !s->quoted && n > 0 && (n == 1 || digits[0] != '0') && digits[n] == '\0' &&
           digits + n == s->text + s->length;
}

static kd_status read_unsigned(const kd_scalar *s, uint64_t max, uint64_t *out, kd_text *mistake)
{
    if (!is_whole_number(s)) {
        return expected(mistake, s, "a whole number");
    }
    errno = 0;
    const unsigned long long number = strtoull(s->text, NULL, 10);
    const bool negative = s->text[0] == '-' && number != 0;
    if (errno != 0 || negative || number > max) {
        kd_text_printf(mistake, "expected a whole number from 0 to %llu, found %.*s",
                       (unsigned long long)max, QUOTE_BYTES_MAX, s->text);
        return KD_ERR_INVALID;
    }
    *out = number;
    return KD_OK;
}

static kd_status
read_signed(const kd_scalar *s, int64_t min, int64_t max, int64_t *out, kd_text *mistake)
{
    if (!is_whole_number(s)) {
        return expected(mistake, s, "a whole number");
    }
    errno = 0;
    const long long number = strtoll(s->text, NULL, 10);
    if (errno != 0 || number < min || number > max) {
        kd_text_printf(mistake, "expected a whole number from %lld to %lld, found %.*s",
                       (long long)min, (long long)max, QUOTE_BYTES_MAX, s->text);
        return KD_ERR_INVALID;
    }
    *out = number;
    return KD_OK;
}

/* YAML's words for what is no decimal number, so that every double can be written and read. */
static bool read_special_double(const char *text, double *out)
{
    static const struct {
        const char *word;
        double value;
    } words[] = {{".inf", INFINITY}, {"+.inf", INFINITY}, {"-.inf", -INFINITY}, {".nan", NAN}};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i].word) == 0) {
            *out = words[i].value;
            return true;
        }
    }
    return false;
}

static kd_status read_double(const kd_scalar *s, double *out, kd_text *mistake)
{
    if (!s->quoted && read_special_double(s->text, out)) {
        return KD_OK;
    }
    char *end = NULL;
    /* strtod reads hexadecimal, infinities and leading blanks, too. */
    const bool decimal = strspn(s->text, "0123456789.eE+-") == s->length && s->length > 0;
    const double number = decimal ? strtod(s->text, &end) : 0.0;
    if (s->quoted || !decimal || *end != '\0') {
        return expected(mistake, s, "a number");
    }
    if (!isfinite(number)) {
        return expected(mistake, s, "a number that fits a double");
    }
    *out = number;
    return KD_OK;
}

static kd_status read_bool(const kd_scalar *s, protobuf_c_boolean *out, kd_text *mistake)
{
    const bool is_true = strcmp(s->text, "true") == 0;
    if (s->quoted || (!is_true && strcmp(s->text, "false") != 0)) {
        return expected(mistake, s, "true or false");
    }
    *out = is_true;
    return KD_OK;
}

static kd_status
expected_word(const ProtobufCEnumDescriptor *type, const kd_scalar *s, kd_text *mistake)
{
    kd_text_add(mistake, type->n_values > 1 ? "expected one of" : "expected");
    for (unsigned i = 0; i < type->n_values; i++) {
        kd_text_add(mistake, i == 0 ? " " : ", ");
        kd_enum_add_word(mistake, type, type->values[i].value);
    }
    kd_text_add(mistake, "; found ");
    kd_scalar_quote(mistake, s->text, s->length);
    return KD_ERR_INVALID;
}

static kd_status
read_enum(const ProtobufCEnumDescriptor *type, const kd_scalar *s, int32_t *out, kd_text *mistake)
{
    for (unsigned i = 0; i < type->n_values; i++) {
        kd_text word = {0};
        kd_enum_add_word(&word, type, type->values[i].value);
        const bool same = !word.failed && strcmp(word.data, s->text) == 0;
        kd_text_release(&word);
        if (same && strlen(s->text) == s->length) {
            *out = type->values[i].value;
            return KD_OK;
        }
    }
    return expected_word(type, s, mistake);
}

static kd_status read_string(const kd_scalar *s, char **out, kd_text *mistake)
{
    if (memchr(s->text, '\0', s->length) != NULL) {
        return expected(mistake, s, "text without NUL");
    }
    *out = strdup(s->text);
    return *out != NULL ? KD_OK : KD_ERR_NOMEM;
}

static kd_status read_i32(const kd_scalar *s, kd_element *element, kd_text *mistake)
{
    int64_t number = 0;
    kd_status st = read_signed(s, INT32_MIN, INT32_MAX, &number, mistake);
    element->i32 = (int32_t)number;
    return st;
}

static kd_status read_u32(const kd_scalar *s, kd_element *element, kd_text *mistake)
{
    uint64_t number = 0;
    kd_status st = read_unsigned(s, UINT32_MAX, &number, mistake);
    element->u32 = (uint32_t)number;
    return st;
}

static kd_status read_f32(const kd_scalar *s, kd_element *element, kd_text *mistake)
{
    double number = 0.0;
    kd_status st = read_double(s, &number, mistake);
    element->f32 = (float)number;
    return st;
}

kd_status kd_scalar_read(const ProtobufCFieldDescriptor *field,
                         const kd_scalar *s,
                         kd_element *element_out,
                         kd_text *mistake)
{
    *element_out = (kd_element){0};
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        return read_i32(s, element_out, mistake);
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return read_u32(s, element_out, mistake);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return read_signed(s, INT64_MIN, INT64_MAX, &element_out->i64, mistake);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return read_unsigned(s, UINT64_MAX, &element_out->u64, mistake);
    case PROTOBUF_C_TYPE_FLOAT:
        return read_f32(s, element_out, mistake);
    case PROTOBUF_C_TYPE_DOUBLE:
        return read_double(s, &element_out->f64, mistake);
    case PROTOBUF_C_TYPE_BOOL:
        return read_bool(s, &element_out->boolean, mistake);
    case PROTOBUF_C_TYPE_ENUM:
        return read_enum(field->descriptor, s, &element_out->i32, mistake);
    case PROTOBUF_C_TYPE_STRING:
        return read_string(s, &element_out->string, mistake);
    case PROTOBUF_C_TYPE_BYTES:
        kd_text_add(mistake, "bytes cannot be written in YAML");
        return KD_ERR_INVALID;
    case PROTOBUF_C_TYPE_MESSAGE:
        break;
    }
    KD_CHECK(!"a scalar field");
    return KD_ERR_ARG;
}

/* Words and paths read the same plain in every YAML; all else is quoted. */
static bool is_plain(const char *string)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789_./+-";
    static const char *const words[] = {"true", "false", "yes", "no", "on",
                                        "off",  "null",  "y",   "n"};
    const bool starts_well = string[0] == '/' || (string[0] != '\0' && strchr(letters, string[0]));
    if (!starts_well || string[strspn(string, others)] != '\0') {
        return false;
    }
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(string, words[i]) == 0) {
            return false;
        }
    }
    return true;
}

static void print_string(kd_text *text, const char *string)
{
    if (is_plain(string)) {
        kd_text_add(text, string);
    } else {
        kd_json_add_string(text, string, strlen(string)); /* a JSON string is one of YAML */
    }
}

static void print_double(kd_text *text, double number)
{
    if (isfinite(number)) {
        kd_text_add_double(text, number);
    } else {
        kd_text_add(text, isnan(number) ? ".nan" : number > 0 ? ".inf" : "-.inf");
    }
}

void kd_scalar_add(kd_text *text, const ProtobufCFieldDescriptor *field, const void *element)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        kd_text_printf(text, "%d", *(const int32_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        kd_text_printf(text, "%u", *(const uint32_t *)element);
        return;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        kd_text_printf(text, "%lld", (long long)*(const int64_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        kd_text_printf(text, "%llu", (unsigned long long)*(const uint64_t *)element);
        return;
    case PROTOBUF_C_TYPE_FLOAT:
        print_double(text, (double)*(const float *)element);
        return;
    case PROTOBUF_C_TYPE_DOUBLE:
        print_double(text, *(const double *)element);
        return;
    case PROTOBUF_C_TYPE_BOOL:
        kd_text_add(text, *(const protobuf_c_boolean *)element ? "true" : "false");
        return;
    case PROTOBUF_C_TYPE_ENUM:
        kd_enum_add_word(text, field->descriptor, *(const int *)element);
        return;
    case PROTOBUF_C_TYPE_STRING:
        print_string(text, *(const char *const *)element);
        return;
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        break;
    }
    KD_CHECK(!"a field that YAML can hold");
}
