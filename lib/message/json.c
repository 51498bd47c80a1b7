/* json.c - by descriptors alone: a field that is added to a .proto file is printed without a line here. */
#include "message/json.h"

#include <stdbool.h>
#include <stdint.h>

#include "message/reflect.h"

static void print_base64(kd_json_printer *p, const ProtobufCBinaryData *bytes)
{
    kd_text text = {0};
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";
    const uint32_t padding = 64;
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
        kd_text_add_bytes(&text, four, sizeof four);
    }
    kd_json_bytes(p, text.data, text.size);
    p->text->failed |= text.failed;
    kd_text_release(&text);
}

static void print_message(kd_json_printer *p, const ProtobufCMessage *message, bool with_defaults);

static void print_enum(kd_json_printer *p, const ProtobufCFieldDescriptor *field, int value)
{
    kd_text word = {0};
    kd_enum_add_word(&word, field->descriptor, value);
    kd_json_bytes(p, word.data, word.size);
    p->text->failed |= word.failed;
    kd_text_release(&word);
}

static void print_element(kd_json_printer *p,
                          const ProtobufCFieldDescriptor *field,
                          const void *element,
                          bool with_defaults)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        kd_json_int(p, *(const int32_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        kd_json_uint(p, *(const uint32_t *)element);
        return;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        kd_json_int(p, *(const int64_t *)element);
        return;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        kd_json_uint(p, *(const uint64_t *)element);
        return;
    case PROTOBUF_C_TYPE_FLOAT:
        kd_json_float(p, *(const float *)element);
        return;
    case PROTOBUF_C_TYPE_DOUBLE:
        kd_json_double(p, *(const double *)element);
        return;
    case PROTOBUF_C_TYPE_BOOL:
        kd_json_bool(p, *(const protobuf_c_boolean *)element);
        return;
    case PROTOBUF_C_TYPE_ENUM:
        print_enum(p, field, *(const int *)element);
        return;
    case PROTOBUF_C_TYPE_STRING:
        kd_json_string(p, *(const char *const *)element);
        return;
    case PROTOBUF_C_TYPE_BYTES:
        print_base64(p, element);
        return;
    case PROTOBUF_C_TYPE_MESSAGE:
        print_message(p, *(ProtobufCMessage *const *)element, with_defaults);
        return;
    }
}

static void print_list(kd_json_printer *p,
                       const ProtobufCMessage *message,
                       const ProtobufCFieldDescriptor *field,
                       bool with_defaults)
{
    const size_t n = kd_message_count(message, field);
    kd_json_begin(p, '[');
    for (size_t i = 0; i < n; i++) {
        print_element(p, field, kd_message_at(message, field, i), with_defaults);
    }
    kd_json_end(p, ']');
}

static void print_field(kd_json_printer *p,
                        const ProtobufCMessage *message,
                        const ProtobufCFieldDescriptor *field,
                        bool with_defaults)
{
    const bool is_set = kd_message_count(message, field) != 0;
    kd_json_key(p, field->name);
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        print_list(p, message, field, with_defaults);
    } else if (is_set || field->default_value != NULL) {
        print_element(p, field, kd_message_at(message, field, 0), with_defaults);
    } else {
        kd_json_null(p);
    }
}

/* Of a oneof only the member that is set is ever shown. */
static bool
is_shown(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, bool with_defaults)
{
    const bool in_oneof = (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
    return kd_message_count(message, field) != 0 || (with_defaults && !in_oneof);
}

static void print_message(kd_json_printer *p, const ProtobufCMessage *message, bool with_defaults)
{
    kd_json_begin(p, '{');
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (is_shown(message, field, with_defaults)) {
            print_field(p, message, field, with_defaults);
        }
    }
    kd_json_end(p, '}');
}

void kd_json_message(kd_json_printer *p, const ProtobufCMessage *message, unsigned flags)
{
    print_message(p, message, (flags & KD_JSON_DEFAULTS) != 0);
}

void kd_json_print(kd_text *text, const ProtobufCMessage *message, unsigned flags)
{
    kd_json_printer p = {.text = text, .is_indented = (flags & KD_JSON_INDENT) != 0};
    kd_json_message(&p, message, flags);
}
