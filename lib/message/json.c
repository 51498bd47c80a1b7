#include "message/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "message/reflect.h"
#include "message/scalar.h"

typedef struct writer {
    kd_text *text;
    unsigned flags;
    unsigned depth;
} writer;

/*
 * Length in bytes of the UTF-8 character at the front, and its number; 0 if it is none (overlong,
 * surrogate, above U+10FFFF, cut off).
 */
static size_t decode_utf8(const uint8_t *bytes, size_t size, uint32_t *code_out)
{
    static const uint32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t first = bytes[0];
    const size_t n = first < 0x80             ? 1
                     : (first & 0xe0) == 0xc0 ? 2
                     : (first & 0xf0) == 0xe0 ? 3
                     : (first & 0xf8) == 0xf0 ? 4
                                              : 0;
    if (n == 0 || n > size) {
        return 0;
    }
    uint32_t code = n == 1 ? first : first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((bytes[i] & 0xc0) != 0x80) {
            return 0;
        }
        code = code << 6 | (bytes[i] & 0x3fu);
    }
    if (code < lowest[n] || (code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff) {
        return 0;
    }
    *code_out = code;
    return n;
}

/*
 * Controls, line breaks of Unicode, the byte order mark and what is no character: not safe in YAML.
 */
static bool must_escape(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029 ||
           code == 0xfeff || code == 0xfffe || code == 0xffff;
}

static void print_character(kd_text *text, const uint8_t *bytes, size_t n, uint32_t code)
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

void kd_json_print_string(kd_text *text, const char *string, size_t size_bytes)
{
    const uint8_t *bytes = (const uint8_t *)string;
    kd_text_add(text, "\"");
    while (size_bytes > 0) {
        uint32_t code = 0;
        size_t n = decode_utf8(bytes, size_bytes, &code);
        if (n > 0) {
            print_character(text, bytes, n, code);
        } else {
            kd_text_add(text, "\\ufffd");
            n = 1;
        }
        bytes += n;
        size_bytes -= n;
    }
    kd_text_add(text, "\"");
}

void kd_json_print_double(kd_text *text, double number)
{
    if (isfinite(number)) {
        kd_scalar_add_double(text, number);
    } else {
        kd_text_add(text, "null");
    }
}

static void print_float(kd_text *text, float number)
{
    if (isfinite(number)) {
        kd_scalar_add_float(text, number);
    } else {
        kd_text_add(text, "null");
    }
}

static void print_base64(kd_text *text, const ProtobufCBinaryData *bytes)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    const uint32_t padding = 64;
    kd_text_add(text, "\"");
    for (size_t i = 0; i < bytes->len; i += 3) {
        const size_t left = bytes->len - i;
        const uint32_t three = (uint32_t)bytes->data[i] << 16 |
                               (left > 1 ? (uint32_t)bytes->data[i + 1] << 8 : 0) |
                               (left > 2 ? (uint32_t)bytes->data[i + 2] : 0);
        const char four[4] = {
            letters[three >> 18],
            letters[three >> 12 & 63],
            letters[left > 1 ? three >> 6 & 63 : padding],
            letters[left > 2 ? three & 63 : padding],
        };
        kd_text_add_bytes(text, four, sizeof four);
    }
    kd_text_add(text, "\"");
}

static void print_message(writer *w, const ProtobufCMessage *message);

static void print_enum(kd_text *text, const ProtobufCFieldDescriptor *field, int value)
{
    kd_text_add(text, "\"");
    kd_enum_add_word(text, field->descriptor, value);
    kd_text_add(text, "\"");
}

static void print_string_or_null(kd_text *text, const char *string)
{
    if (string == NULL) {
        kd_text_add(text, "null");
    } else {
        kd_json_print_string(text, string, strlen(string));
    }
}

static void print_element(writer *w, const ProtobufCFieldDescriptor *field, const void *element)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        kd_text_printf(w->text, "%" PRId32, *(const int32_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        kd_text_printf(w->text, "%" PRIu32, *(const uint32_t *)element);
        return;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        kd_text_printf(w->text, "%" PRId64, *(const int64_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        kd_text_printf(w->text, "%" PRIu64, *(const uint64_t *)element);
        return;
    case PROTOBUF_C_TYPE_FLOAT:
        print_float(w->text, *(const float *)element);
        return;
    case PROTOBUF_C_TYPE_DOUBLE:
        kd_json_print_double(w->text, *(const double *)element);
        return;
    case PROTOBUF_C_TYPE_BOOL:
        kd_text_add(w->text, *(const protobuf_c_boolean *)element ? "true" : "false");
        return;
    case PROTOBUF_C_TYPE_ENUM:
        print_enum(w->text, field, *(const int *)element);
        return;
    case PROTOBUF_C_TYPE_STRING:
        print_string_or_null(w->text, *(const char *const *)element);
        return;
    case PROTOBUF_C_TYPE_BYTES:
        print_base64(w->text, element);
        return;
    case PROTOBUF_C_TYPE_MESSAGE:
        print_message(w, *(ProtobufCMessage *const *)element);
        return;
    }
}

static void print_break(const writer *w)
{
    if (w->flags & KD_JSON_INDENT) {
        kd_text_add(w->text, "\n");
        for (unsigned i = 0; i < w->depth; i++) {
            kd_text_add(w->text, "  ");
        }
    }
}

static void
print_list(writer *w, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const size_t n = kd_message_count(message, field);
    kd_text_add(w->text, "[");
    w->depth++;
    for (size_t i = 0; i < n; i++) {
        if (i > 0) {
            kd_text_add(w->text, ",");
        }
        print_break(w);
        print_element(w, field, kd_message_at(message, field, i));
    }
    w->depth--;
    if (n > 0) {
        print_break(w);
    }
    kd_text_add(w->text, "]");
}

static void
print_field(writer *w, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const bool is_set = kd_message_count(message, field) != 0;
    kd_text_printf(w->text, w->flags & KD_JSON_INDENT ? "\"%s\": " : "\"%s\":", field->name);
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        print_list(w, message, field);
    } else if (is_set || field->default_value != NULL) {
        print_element(w, field, kd_message_at(message, field, 0));
    } else {
        kd_text_add(w->text, "null");
    }
}

/* Of a oneof only the member that is set is ever shown. */
static bool
is_shown(const writer *w, const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field)
{
    const bool in_oneof = (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
    return kd_message_count(message, field) != 0 || ((w->flags & KD_JSON_DEFAULTS) && !in_oneof);
}

static void print_message(writer *w, const ProtobufCMessage *message)
{
    bool any = false;
    kd_text_add(w->text, "{");
    w->depth++;
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (is_shown(w, message, field)) {
            if (any) {
                kd_text_add(w->text, ",");
            }
            any = true;
            print_break(w);
            print_field(w, message, field);
        }
    }
    w->depth--;
    if (any) {
        print_break(w);
    }
    kd_text_add(w->text, "}");
}

void kd_json_print(kd_text *text, const ProtobufCMessage *message, unsigned flags)
{
    writer w = {.text = text, .flags = flags};
    print_message(&w, message);
}
