/*
 * path.c - a setter works on a copy and swaps it in when all of it went well, so a refused value leaves
 * nothing half done; job files are small. The others go by type where a message is not there yet, so that
 * every path can be asked for.
 */
#include "message/path.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/fields.h"
#include "message/json.h"
#include "message/reflect.h"
#include "message/scalar.h"
#include "message/yaml.h"
#include "message/yaml_reader.h"

/* A path is cut at its dots; messages on the way are made by the setter, and only looked for by the
 * others, which go by type where there is none. */
#define KD_PATH_SHOWN 256 /* bytes of a path in a mistake */

#define NO_NAME "found a path with nothing before or behind a dot, expected a field's name"

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
    if (*part == '\0') {
        return kd_yaml_mistake(r, NULL, NO_NAME);
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

/* An element cannot be absent: those behind it would move up. */
static kd_status set_element(kd_yaml_reader *r, const yaml_event_t *event, const target *at)
{
    if (kd_yaml_is_null(event)) {
        return kd_yaml_mistake(r, NULL, "expected a value, found null");
    }
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

static kd_status apply(ProtobufCMessage *message, char *path, const char *value, const char *name)
{
    kd_yaml_reader reader;
    kd_status st = kd_yaml_reader_init(&reader, value, strlen(value), name, false);
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

kd_status
kd_path_set(ProtobufCMessage *message, const char *path, const char *value, const char *name)
{
    if (strlen(path) + strlen(value) > KD_YAML_BYTES_MAX) {
        return kd_fail(KD_ERR_INVALID, "%.60s: expected at most %u bytes", path, KD_YAML_BYTES_MAX);
    }
    char *parts = strdup(path);
    ProtobufCMessage *copy = kd_message_copy(message);
    kd_status st = parts != NULL && copy != NULL ? apply(copy, parts, value, name)
                                                 : kd_fail(KD_ERR_NOMEM, "%.60s: no memory", path);
    if (!st) {
        swap_contents(message, copy);
    }
    kd_message_destroy(copy);
    free(parts);
    return st;
}

/* Fails in the words of kd_path_set(). `shown` is the path so far. */
static kd_status
no_field(const char *shown, const ProtobufCMessageDescriptor *type, const char *part)
{
    const char *dot = shown[0] != '\0' ? "." : "";
    if (*part == '\0') {
        return kd_fail(KD_ERR_INVALID, "%s%s" NO_NAME, shown, shown[0] != '\0' ? ": " : "");
    }
    const char *nearest = strlen(part) < 60 ? kd_message_nearest_field(type, part) : NULL;
    return kd_fail(KD_ERR_INVALID, "%s%s%.60s: no such field%s%s%s", shown, dot, part,
                   nearest != NULL ? "; did you mean \"" : "", nearest != NULL ? nearest : "",
                   nearest != NULL ? "\"?" : "");
}

static bool is_number(const char *part)
{
    return part[0] != '\0' && part[strspn(part, "0123456789")] == '\0';
}

/* A list of which no element is chosen yet. */
static bool is_whole_list(const kd_path_place *place)
{
    return place->field != NULL && place->field->label == PROTOBUF_C_LABEL_REPEATED &&
           !place->has_index;
}

/* A step by type alone: an index behind a list may be any, or left out. */
static kd_status step_of_type(const char *shown,
                              const char *part,
                              const ProtobufCMessageDescriptor **type,
                              kd_path_place *place)
{
    const ProtobufCFieldDescriptor *at = place->field;
    if (is_whole_list(place) && is_number(part)) {
        place->has_index = true;
        place->index = strtoul(part, NULL, 10);
        return KD_OK;
    }
    if (at != NULL && at->type != PROTOBUF_C_TYPE_MESSAGE) {
        return kd_fail(KD_ERR_INVALID, "%s: has no fields, so no \"%.60s\"", shown, part);
    }
    if (at != NULL) {
        *type = at->descriptor;
    }
    const ProtobufCFieldDescriptor *field = kd_message_field(*type, part);
    if (field == NULL) {
        return no_field(shown, *type, part);
    }
    const kd_field_facts *facts = kd_field_facts_of(*type, field);
    const unsigned flags = place->flags | (facts != NULL ? facts->flags : 0);
    *place = (kd_path_place){.type = *type, .field = field, .flags = flags};
    return KD_OK;
}

/* The message below `message` at a place; NULL if it is absent. */
static const ProtobufCMessage *message_at(const ProtobufCMessage *message, const kd_path_place *at)
{
    if (message == NULL || at->index >= kd_message_count(message, at->field)) {
        return NULL;
    }
    return *(ProtobufCMessage *const *)kd_message_at(message, at->field, at->index);
}

/*
 * `message` is NULL where only the type is asked for; then indexes may be left out. *in_out is the message that
 * the field is in, or NULL if that is absent.
 */
static kd_status find(const ProtobufCMessageDescriptor *type,
                      const ProtobufCMessage *message,
                      const char *path,
                      kd_path_place *place_out,
                      const ProtobufCMessage **in_out)
{
    const bool needs_index = message != NULL;
    char *parts = strdup(path), *rest = parts;
    char shown[KD_PATH_SHOWN] = "";
    kd_path_place place = {0};
    kd_status st = parts != NULL ? KD_OK : kd_fail(KD_ERR_NOMEM, "%.60s: no memory", path);
    while (!st && rest != NULL) {
        const char *part = strsep(&rest, ".");
        const kd_path_place before = place;
        if (needs_index && is_whole_list(&place) && !is_number(part)) {
            st = kd_fail(KD_ERR_INVALID, "%s: found \"%.60s\", expected an index", shown, part);
            break;
        }
        st = step_of_type(shown, part, &type, &place);
        if (!st && before.field != NULL && before.field != place.field) {
            message = message_at(message, &before);
        }
        const size_t n = strlen(shown);
        (void)snprintf(shown + n, sizeof shown - n, "%s%s", n > 0 ? "." : "", part);
    }
    free(parts);
    if (!st) {
        *place_out = place;
        *in_out = message;
    }
    return st;
}

kd_status
kd_path_find(const ProtobufCMessageDescriptor *type, const char *path, kd_path_place *place_out)
{
    const ProtobufCMessage *in;
    return find(type, NULL, path, place_out, &in);
}

static void add_element(kd_text *text, const ProtobufCFieldDescriptor *field, const void *element)
{
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
        kd_scalar_add(text, field, element);
        return;
    }
    const ProtobufCMessage *message = *(ProtobufCMessage *const *)element;
    const ProtobufCFieldDescriptor *value = kd_yaml_bare_value(message);
    if (value != NULL) {
        add_element(text, value, kd_message_at(message, value, 0));
    } else {
        kd_json_print(text, message, KD_JSON_SET_ONLY);
    }
}

static void add_list(kd_text *text, const ProtobufCMessage *in, const kd_path_place *place)
{
    const size_t n = in != NULL ? kd_message_count(in, place->field) : 0;
    kd_text_add(text, "[");
    for (size_t i = 0; i < n; i++) {
        kd_text_add(text, i > 0 ? ", " : "");
        add_element(text, place->field, kd_message_at(in, place->field, i));
    }
    kd_text_add(text, "]");
}

void kd_path_add_default(kd_text *text, const ProtobufCFieldDescriptor *field)
{
    if (field->default_value == NULL || field->type == PROTOBUF_C_TYPE_MESSAGE) {
        return;
    }
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        const char *word = field->default_value;
        kd_scalar_add(text, field, &word);
    } else {
        kd_scalar_add(text, field, field->default_value);
    }
}

kd_status kd_path_get(const ProtobufCMessage *message, const char *path, kd_text *value)
{
    kd_path_place place = {0};
    const ProtobufCMessage *in = NULL;
    kd_status st = find(message->descriptor, message, path, &place, &in);
    if (st) {
        return st;
    }
    const size_t n = in != NULL ? kd_message_count(in, place.field) : 0;
    if (place.field->label == PROTOBUF_C_LABEL_REPEATED && !place.has_index) {
        add_list(value, in, &place);
    } else if (place.has_index && place.index >= n) {
        return kd_fail(KD_ERR_NOT_FOUND, "%s: found %zu elements, expected more", path, n);
    } else if (n > 0) {
        add_element(value, place.field, kd_message_at(in, place.field, place.index));
    } else if (in != NULL && kd_message_unset_value(in, place.field) != NULL) {
        kd_scalar_add(value, place.field, kd_message_unset_value(in, place.field));
    } else {
        kd_path_add_default(value, place.field);
    }
    return value->failed ? kd_fail(KD_ERR_NOMEM, "%s: no memory", path) : KD_OK;
}

bool kd_path_is_set(const ProtobufCMessage *message, const char *path)
{
    kd_path_place place = {0};
    const ProtobufCMessage *in = NULL;
    const int quiet = kd_fault_quiet(1);
    const bool is_path = find(message->descriptor, message, path, &place, &in) == KD_OK;
    (void)kd_fault_quiet(quiet);
    return is_path && in != NULL && place.index < kd_message_count(in, place.field);
}
