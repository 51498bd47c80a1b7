/*
 * yaml.c - a whole file becomes a message; a value behind --set goes by path.c to the same reader, so that
 * the same text means the same in both.
 */
#include "message/yaml.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/path.h"
#include "message/reflect.h"
#include "message/yaml_reader.h"

/* Reads the whole text into an empty message. */
static kd_status read_text(kd_yaml_reader *r, ProtobufCMessage *message)
{
    yaml_event_t event;
    bool empty = false;
    kd_status st = kd_yaml_begin(r, &event, &empty);
    if (st || empty) {
        return st;
    }
    const bool is_blank = event.type == YAML_SCALAR_EVENT && event.data.scalar.length == 0;
    st = is_blank ? KD_OK : kd_yaml_read_message(r, &event, message);
    yaml_event_delete(&event);
    return st ? st : kd_yaml_end(r);
}

kd_status kd_yaml_parse(const char *text,
                        size_t size_bytes,
                        const char *name,
                        const ProtobufCMessageDescriptor *type,
                        ProtobufCMessage **message_out)
{
    if (size_bytes > KD_YAML_BYTES_MAX) {
        return kd_fail(KD_ERR_INVALID, "%s: found %zu bytes, expected at most %u", name, size_bytes,
                       KD_YAML_BYTES_MAX);
    }
    ProtobufCMessage *message = kd_message_create(type);
    if (message == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", name);
    }
    kd_yaml_reader reader;
    kd_status st = kd_yaml_reader_init(&reader, text, size_bytes, name, true);
    if (!st) {
        st = read_text(&reader, message);
        kd_yaml_reader_release(&reader);
    }
    if (st) {
        kd_message_destroy(message);
        return st;
    }
    *message_out = message;
    return KD_OK;
}

kd_status kd_yaml_set(ProtobufCMessage *message, const char *assignment)
{
    static const char name[] = "--set";
    const char *equals = strchr(assignment, '=');
    if (equals == NULL || equals == assignment) {
        return kd_fail(KD_ERR_INVALID, "%s: found \"%.60s\", expected PATH=VALUE", name,
                       assignment);
    }
    char *path = strndup(assignment, (size_t)(equals - assignment));
    kd_status st = path != NULL ? kd_path_set(message, path, equals + 1, name)
                                : kd_fail(KD_ERR_NOMEM, "%s: no memory", name);
    free(path);
    return st;
}
