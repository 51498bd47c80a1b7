/*
 * yaml_print.c - only what is set, in the order of the .proto, so that a file reads like the one that a
 * person wrote, and reads back as the same message.
 */
#include "message/yaml.h"

#include <stdbool.h>

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

static size_t count_set_fields(const ProtobufCMessage *message)
{
    size_t n = 0;
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        n += kd_message_count(message, &message->descriptor->fields[i]) != 0;
    }
    return n;
}

const ProtobufCFieldDescriptor *kd_yaml_bare_value(const ProtobufCMessage *message)
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
        kd_scalar_add(text, field, element);
        kd_text_add(text, "\n");
        return;
    }
    const ProtobufCMessage *message = *(ProtobufCMessage *const *)element;
    const ProtobufCFieldDescriptor *value = kd_yaml_bare_value(message);
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
