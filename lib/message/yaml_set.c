#include "message/yaml.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/reflect.h"
#include "message/yaml_reader.h"

/* Where a path has come to: a field, or the element `index` of a repeated one. */
typedef struct target {
    ProtobufCMessage *message;
    const ProtobufCFieldDescriptor *field; /* NULL before the first step */
    bool has_index;
    size_t index;
} target;

static bool is_message(const target *at)
{
    return at->field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static bool is_list(const target *at)
{
    return at->field->label == PROTOBUF_C_LABEL_REPEATED && !at->has_index;
}

/* The message to step into, made if it is not there yet. */
static kd_status enter(kd_yaml_reader *r, const target *at, ProtobufCMessage **message_out)
{
    const size_t n = kd_message_count(at->message, at->field);
    if (at->index < n) {
        *message_out = *(ProtobufCMessage **)kd_message_at(at->message, at->field, at->index);
        return KD_OK;
    }
    ProtobufCMessage *sub = kd_message_create(at->field->descriptor);
    if (sub == NULL || kd_message_add_element(at->message, at->field, &sub) == NULL) {
        kd_message_destroy(sub);
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", r->name);
    }
    *message_out = sub;
    return KD_OK;
}

static kd_status step_to_index(kd_yaml_reader *r, target *at, const char *part)
{
    const size_t n = kd_message_count(at->message, at->field);
    char *end;
    const unsigned long index = strtoul(part, &end, 10);
    if (part[0] < '0' || part[0] > '9' || *end != '\0' || index > n) {
        return kd_yaml_mistake(r, NULL, "found \"%.60s\", expected an index from 0 to %zu", part,
                               n);
    }
    at->has_index = true;
    at->index = index;
    (void)kd_yaml_path_push(r, part);
    return KD_OK;
}

static kd_status step_to_field(kd_yaml_reader *r, target *at, const char *part)
{
    ProtobufCMessage *message = at->message;
    if (at->field != NULL) {
        if (!is_message(at)) {
            return kd_yaml_mistake(r, NULL, "has no fields, so no \"%.60s\"", part);
        }
        kd_status st = enter(r, at, &message);
        if (st) {
            return st;
        }
    }
    const ProtobufCFieldDescriptor *field = kd_message_field(message->descriptor, part);
    if (field == NULL) {
        return kd_yaml_unknown_field(r, NULL, message->descriptor, part);
    }
    *at = (target){.message = message, .field = field};
    (void)kd_yaml_path_push(r, part);
    return KD_OK;
}

/* Follows `path`, which it cuts into its parts. */
static kd_status follow(kd_yaml_reader *r, char *path, target *at)
{
    char *rest = path;
    for (const char *part = strsep(&rest, "."); part != NULL; part = strsep(&rest, ".")) {
        const bool wants_index = at->field != NULL && is_list(at);
        kd_status st = wants_index ? step_to_index(r, at, part) : step_to_field(r, at, part);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status set_element(kd_yaml_reader *r, const yaml_event_t *event, const target *at)
{
    const size_t n = kd_message_count(at->message, at->field);
    kd_status st = kd_yaml_read_element(r, event, at->message, at->field);
    if (!st && at->index < n) {
        kd_message_replace_by_last(at->message, at->field, at->index);
    }
    return st;
}

static kd_status set_value(kd_yaml_reader *r, const target *at)
{
    yaml_event_t event;
    bool empty = false;
    kd_status st = kd_yaml_begin(r, &event, &empty);
    if (st) {
        return st;
    }
    if (empty && at->has_index) {
        return kd_yaml_mistake(r, NULL, "expected a value, found nothing");
    }
    if (empty) {
        kd_message_clear(at->message, at->field);
        return KD_OK;
    }
    st = at->has_index ? set_element(r, &event, at)
                       : kd_yaml_read_field(r, &event, at->message, at->field);
    yaml_event_delete(&event);
    return st ? st : kd_yaml_end(r);
}

static kd_status apply(ProtobufCMessage *message, char *path, const char *value)
{
    kd_yaml_reader reader;
    kd_status st = kd_yaml_reader_init(&reader, value, strlen(value), "--set", false);
    if (st) {
        return st;
    }
    target at = {.message = message};
    st = follow(&reader, path, &at);
    if (!st) {
        st = set_value(&reader, &at);
    }
    kd_yaml_reader_release(&reader);
    return st;
}

/* Messages hold no pointers to themselves, so their contents can change places. */
static void swap_contents(ProtobufCMessage *a, ProtobufCMessage *b)
{
    uint8_t *bytes_a = (uint8_t *)a, *bytes_b = (uint8_t *)b;
    for (size_t i = 0; i < a->descriptor->sizeof_message; i++) {
        const uint8_t byte = bytes_a[i];
        bytes_a[i] = bytes_b[i];
        bytes_b[i] = byte;
    }
}

kd_status kd_yaml_set(ProtobufCMessage *message, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    if (equals == NULL || equals == assignment) {
        return kd_fail(KD_ERR_INVALID, "--set: found \"%.60s\", expected PATH=VALUE", assignment);
    }
    if (strlen(assignment) > KD_YAML_BYTES_MAX) {
        return kd_fail(KD_ERR_INVALID, "--set: expected at most %u bytes", KD_YAML_BYTES_MAX);
    }
    char *path = strndup(assignment, (size_t)(equals - assignment));
    ProtobufCMessage *copy = kd_message_copy(message);
    kd_status st = path != NULL && copy != NULL ? apply(copy, path, equals + 1)
                                                : kd_fail(KD_ERR_NOMEM, "--set: no memory");
    if (!st) {
        swap_contents(message, copy);
    }
    kd_message_destroy(copy);
    free(path);
    return st;
}
