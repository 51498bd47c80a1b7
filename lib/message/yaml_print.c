#include "message/yaml.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "base/json_print.h"
#include "message/reflect.h"
#include "message/scalar.h"

static void
print_fields(kd_text *text, const ProtobufCMessage *message, unsigned depth, bool begun);

static void indent(kd_text *text, unsigned depth)
{
    for (unsigned i = 0; i < depth; i++) {
        kd_text_add(text, "  ");
    }
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

static void print_scalar(kd_text *text, const ProtobufCFieldDescriptor *field, const void *element)
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

static size_t count_set_fields(const ProtobufCMessage *message)
{
    size_t n = 0;
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        n += kd_message_count(message, &message->descriptor->fields[i]) != 0;
    }
    return n;
}

/* The field that can stand for the whole message, if it is the only one set. */
static const ProtobufCFieldDescriptor *bare_value(const ProtobufCMessage *message)
{
    const ProtobufCFieldDescriptor *value = kd_message_value_field(message->descriptor);
    const bool alone = value != NULL && value->label != PROTOBUF_C_LABEL_REPEATED &&
                       value->type != PROTOBUF_C_TYPE_MESSAGE &&
                       kd_message_count(message, value) == 1 && count_set_fields(message) == 1;
    return alone ? value : NULL;
}

/* After "key:" or "- ": a scalar on the same line, or fields below. */
static void print_element(kd_text *text,
                          const ProtobufCFieldDescriptor *field,
                          const void *element,
                          unsigned depth,
                          bool in_list)
{
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
        kd_text_add(text, " ");
        print_scalar(text, field, element);
        kd_text_add(text, "\n");
        return;
    }
    const ProtobufCMessage *message = *(ProtobufCMessage *const *)element;
    const ProtobufCFieldDescriptor *value = bare_value(message);
    if (value != NULL) {
        print_element(text, value, kd_message_at(message, value, 0), depth, in_list);
    } else if (count_set_fields(message) == 0) {
        kd_text_add(text, " {}\n");
    } else {
        kd_text_add(text, in_list ? " " : "\n");
        print_fields(text, message, depth + 1, in_list);
    }
}

static void print_list(kd_text *text,
                       const ProtobufCMessage *message,
                       const ProtobufCFieldDescriptor *field,
                       unsigned depth)
{
    kd_text_add(text, "\n");
    for (size_t i = 0; i < kd_message_count(message, field); i++) {
        indent(text, depth + 1);
        kd_text_add(text, "-");
        print_element(text, field, kd_message_at(message, field, i), depth + 1, true);
    }
}

/* `begun`: the first field continues a line that is already indented. */
static void print_fields(kd_text *text, const ProtobufCMessage *message, unsigned depth, bool begun)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        if (kd_message_count(message, field) == 0) {
            continue;
        }
        indent(text, begun ? 0 : depth);
        begun = false;
        kd_text_printf(text, "%s:", field->name);
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            print_list(text, message, field, depth);
        } else {
            print_element(text, field, kd_message_at(message, field, 0), depth, false);
        }
    }
}

void kd_yaml_print(kd_text *text, const ProtobufCMessage *message)
{
    if (count_set_fields(message) == 0) {
        kd_text_add(text, "{}\n");
    } else {
        print_fields(text, message, 0, false);
    }
}
