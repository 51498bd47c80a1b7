/*
 * yaml_reader.c - events go straight into fields; there is no tree between, so each mistake has its line
 * and its path. Anchors, tags and second documents are refused: a job file is read by people.
 */
#include "message/yaml_reader.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/reflect.h"
#include "message/scalar.h"

kd_status kd_yaml_reader_init(kd_yaml_reader *r,
                              const char *text,
                              size_t size_bytes,
                              const char *name,
                              bool has_place)
{
    *r = (kd_yaml_reader){.name = name != NULL ? name : "", .has_place = has_place};
    if (!yaml_parser_initialize(&r->parser)) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", r->name);
    }
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, size_bytes);
    return KD_OK;
}

void kd_yaml_reader_release(kd_yaml_reader *r)
{
    yaml_parser_delete(&r->parser);
    kd_text_release(&r->path);
}

size_t kd_yaml_path_push(kd_yaml_reader *r, const char *part)
{
    const size_t size = r->path.size;
    if (size > 0) {
        kd_text_add(&r->path, ".");
    }
    kd_text_add(&r->path, part);
    return size;
}

static void path_pop(kd_yaml_reader *r, size_t size)
{
    if (r->path.size > size) {
        r->path.size = size;
        r->path.data[size] = '\0';
    }
}

/* "FILE:LINE:COLUMN: " counted from 1, as editors do. */
static void add_place(const kd_yaml_reader *r, const yaml_mark_t *mark, kd_text *text)
{
    if (r->name[0] == '\0') {
        return;
    }
    kd_text_add(text, r->name);
    if (r->has_place && mark != NULL) {
        kd_text_printf(text, ":%zu:%zu", mark->line + 1, mark->column + 1);
    }
    kd_text_add(text, ": ");
}

kd_status kd_yaml_mistake(const kd_yaml_reader *r, const yaml_mark_t *mark, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);

    kd_text text = {0};
    add_place(r, mark, &text);
    if (r->path.size > 0) {
        kd_text_printf(&text, "%s: ", r->path.data);
    }
    kd_text_add(&text, what);
    kd_status st = kd_fail(KD_ERR_INVALID, "%s", text.data != NULL ? text.data : what);
    kd_text_release(&text);
    return st;
}

kd_status kd_yaml_unknown_field(kd_yaml_reader *r,
                                const yaml_mark_t *mark,
                                const ProtobufCMessageDescriptor *type,
                                const char *name)
{
    char shown[64]; /* a name may be as long as the file */
    (void)snprintf(shown, sizeof shown, "%.60s", name);
    const size_t size = kd_yaml_path_push(r, shown);
    const char *nearest = strlen(name) < 60 ? kd_message_nearest_field(type, name) : NULL;
    kd_status st = nearest != NULL
                       ? kd_yaml_mistake(r, mark, "no such field; did you mean \"%s\"?", nearest)
                       : kd_yaml_mistake(r, mark, "no such field");
    path_pop(r, size);
    return st;
}

static kd_status next_event(kd_yaml_reader *r, yaml_event_t *event_out)
{
    if (yaml_parser_parse(&r->parser, event_out)) {
        return KD_OK;
    }
    if (r->parser.error == YAML_MEMORY_ERROR) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", r->name);
    }
    const char *problem = r->parser.problem != NULL ? r->parser.problem : "unreadable";
    kd_text text = {0};
    /* The reader of bytes, unlike scanner and parser, knows an offset only. */
    const bool has_mark = r->parser.error != YAML_READER_ERROR;
    add_place(r, has_mark ? &r->parser.problem_mark : NULL, &text);
    kd_text_printf(&text, "no valid YAML: %s", problem);
    if (!has_mark) {
        kd_text_printf(&text, " (byte %zu)", r->parser.problem_offset);
    }
    kd_status st = kd_fail(KD_ERR_PROTO, "%s", text.data != NULL ? text.data : problem);
    kd_text_release(&text);
    return st;
}

static bool is_tagged(const yaml_event_t *event)
{
    return event->type == YAML_SCALAR_EVENT           ? event->data.scalar.tag != NULL
           : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.tag != NULL
           : event->type == YAML_MAPPING_START_EVENT  ? event->data.mapping_start.tag != NULL
                                                      : false;
}

static bool is_anchored(const yaml_event_t *event)
{
    return event->type == YAML_SCALAR_EVENT           ? event->data.scalar.anchor != NULL
           : event->type == YAML_SEQUENCE_START_EVENT ? event->data.sequence_start.anchor != NULL
           : event->type == YAML_MAPPING_START_EVENT  ? event->data.mapping_start.anchor != NULL
                                                      : event->type == YAML_ALIAS_EVENT;
}

/* The next event of a value, without what a job file has no use for. */
static kd_status next_node(kd_yaml_reader *r, yaml_event_t *event_out)
{
    kd_status st = next_event(r, event_out);
    if (st) {
        return st;
    }
    if (is_anchored(event_out)) {
        st = kd_yaml_mistake(r, &event_out->start_mark, "anchors and aliases are not supported");
    } else if (is_tagged(event_out)) {
        st = kd_yaml_mistake(r, &event_out->start_mark, "tags are not supported");
    }
    if (st) {
        yaml_event_delete(event_out);
    }
    return st;
}

kd_status kd_yaml_begin(kd_yaml_reader *r, yaml_event_t *event_out, bool *empty_out)
{
    yaml_event_t event;
    for (;;) {
        kd_status st = next_node(r, &event);
        if (st) {
            return st;
        }
        if (event.type != YAML_STREAM_START_EVENT && event.type != YAML_DOCUMENT_START_EVENT) {
            break;
        }
        yaml_event_delete(&event);
    }
    *empty_out = event.type == YAML_STREAM_END_EVENT;
    if (*empty_out) {
        yaml_event_delete(&event);
    } else {
        *event_out = event;
    }
    return KD_OK;
}

kd_status kd_yaml_end(kd_yaml_reader *r)
{
    kd_status st = KD_OK;
    bool done = false;
    while (!st && !done) {
        yaml_event_t event;
        st = next_event(r, &event);
        if (st) {
            break;
        }
        if (event.type == YAML_DOCUMENT_START_EVENT) {
            st = kd_yaml_mistake(r, &event.start_mark, "a second document, expected one");
        }
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    return st;
}

static kd_scalar scalar_of(const yaml_event_t *event)
{
    return (kd_scalar){
        .text = (const char *)event->data.scalar.value,
        .length = event->data.scalar.length,
        .quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE,
    };
}

static kd_status
wrong_kind(const kd_yaml_reader *r, const yaml_event_t *event, const char *expected)
{
    if (event->type != YAML_SCALAR_EVENT) {
        const bool list = event->type == YAML_SEQUENCE_START_EVENT;
        return kd_yaml_mistake(r, &event->start_mark, "expected %s, found %s", expected,
                               list ? "a list" : "fields");
    }
    kd_text found = {0};
    const kd_scalar scalar = scalar_of(event);
    kd_scalar_quote(&found, scalar.text, scalar.length);
    kd_status st = kd_yaml_mistake(r, &event->start_mark, "expected %s, found %s", expected,
                                   found.data != NULL ? found.data : "something else");
    kd_text_release(&found);
    return st;
}

bool kd_yaml_is_null(const yaml_event_t *event)
{
    if (event->type != YAML_SCALAR_EVENT) {
        return false;
    }
    const kd_scalar scalar = scalar_of(event);
    return kd_scalar_is_null(&scalar);
}

static kd_status no_memory(const kd_yaml_reader *r)
{
    return kd_fail(KD_ERR_NOMEM, "%s: no memory", r->name);
}

static kd_status read_scalar(kd_yaml_reader *r,
                             const yaml_event_t *event,
                             ProtobufCMessage *message,
                             const ProtobufCFieldDescriptor *field)
{
    if (event->type != YAML_SCALAR_EVENT) {
        return wrong_kind(r, event, kd_field_kind(field));
    }
    const kd_scalar scalar = scalar_of(event);
    kd_element element;
    kd_text mistake = {0};
    kd_status st = kd_scalar_read(field, &scalar, &element, &mistake);
    if (st) {
        st = st == KD_ERR_NOMEM
                 ? no_memory(r)
                 : kd_yaml_mistake(r, &event->start_mark, "%s",
                                   mistake.data != NULL ? mistake.data : "bad value");
        kd_text_release(&mistake);
        return st;
    }
    if (kd_message_add_element(message, field, &element) == NULL) {
        if (field->type == PROTOBUF_C_TYPE_STRING) {
            free(element.string);
        }
        return no_memory(r);
    }
    return KD_OK;
}

kd_status kd_yaml_read_element(kd_yaml_reader *r,
                               const yaml_event_t *event,
                               ProtobufCMessage *message,
                               const ProtobufCFieldDescriptor *field)
{
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) {
        return read_scalar(r, event, message, field);
    }
    ProtobufCMessage *sub = kd_message_create(field->descriptor);
    if (sub == NULL) {
        return no_memory(r);
    }
    if (kd_message_add_element(message, field, &sub) == NULL) {
        kd_message_destroy(sub);
        return no_memory(r);
    }
    return kd_yaml_read_message(r, event, sub); /* on an error the owner of `message` frees it */
}

static kd_status read_list(kd_yaml_reader *r,
                           const yaml_event_t *first,
                           ProtobufCMessage *message,
                           const ProtobufCFieldDescriptor *field)
{
    if (first->type != YAML_SEQUENCE_START_EVENT) {
        return wrong_kind(r, first, "a list");
    }
    for (size_t i = 0;; i++) {
        yaml_event_t event;
        kd_status st = next_node(r, &event);
        if (st) {
            return st;
        }
        const bool done = event.type == YAML_SEQUENCE_END_EVENT;
        if (!done) {
            char index[24];
            (void)snprintf(index, sizeof index, "%zu", i);
            const size_t size = kd_yaml_path_push(r, index);
            st = kd_yaml_is_null(&event) ? wrong_kind(r, &event, kd_field_kind(field))
                                         : kd_yaml_read_element(r, &event, message, field);
            path_pop(r, size);
        }
        yaml_event_delete(&event);
        if (st || done) {
            return st;
        }
    }
}

kd_status kd_yaml_read_field(kd_yaml_reader *r,
                             const yaml_event_t *event,
                             ProtobufCMessage *message,
                             const ProtobufCFieldDescriptor *field)
{
    kd_message_clear(message, field);
    if (kd_yaml_is_null(event)) {
        return KD_OK;
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return read_list(r, event, message, field);
    }
    return kd_yaml_read_element(r, event, message, field);
}

/* One "key: value" whose key event is there; `seen` has a bit for each field. */
static kd_status
read_pair(kd_yaml_reader *r, const yaml_event_t *key, ProtobufCMessage *message, uint64_t *seen)
{
    if (key->type != YAML_SCALAR_EVENT) {
        return wrong_kind(r, key, "a field's name");
    }
    const ProtobufCMessageDescriptor *type = message->descriptor;
    const char *name = (const char *)key->data.scalar.value;
    const bool is_text = strlen(name) == key->data.scalar.length; /* no NUL in it */
    const ProtobufCFieldDescriptor *field = is_text ? kd_message_field(type, name) : NULL;
    if (field == NULL) {
        return kd_yaml_unknown_field(r, &key->start_mark, type, name);
    }
    const size_t size = kd_yaml_path_push(r, field->name);
    const uint64_t bit = UINT64_C(1) << (field - type->fields);
    yaml_event_t value;
    kd_status st = (*seen & bit) != 0 ? kd_yaml_mistake(r, &key->start_mark, "given twice")
                                      : next_node(r, &value);
    if (!st) {
        *seen |= bit;
        st = kd_yaml_read_field(r, &value, message, field);
        yaml_event_delete(&value);
    }
    path_pop(r, size);
    return st;
}

static kd_status read_fields(kd_yaml_reader *r, ProtobufCMessage *message)
{
    KD_CHECK(message->descriptor->n_fields <= 64); /* the bits of `seen` */
    uint64_t seen = 0;
    for (;;) {
        yaml_event_t key;
        kd_status st = next_node(r, &key);
        if (st) {
            return st;
        }
        const bool done = key.type == YAML_MAPPING_END_EVENT;
        if (!done) {
            st = read_pair(r, &key, message, &seen);
        }
        yaml_event_delete(&key);
        if (st || done) {
            return st;
        }
    }
}

kd_status
kd_yaml_read_message(kd_yaml_reader *r, const yaml_event_t *event, ProtobufCMessage *message)
{
    const ProtobufCFieldDescriptor *value = kd_message_value_field(message->descriptor);
    if (event->type == YAML_MAPPING_START_EVENT) {
        return read_fields(r, message);
    }
    if (value != NULL && event->type == YAML_SCALAR_EVENT) {
        return kd_yaml_read_field(r, event, message, value);
    }
    return wrong_kind(r, event, "fields");
}
