/*
 * yaml_reader.h - reads YAML events into message fields. Private to lib/message: yaml.c has a whole
 * file's text, path.c the value of one field.
 *
 * Depth is bounded by the message types, which do not contain themselves: a value of the wrong kind
 * is refused before it is entered.
 */
#ifndef KD_MESSAGE_YAML_READER_H
#define KD_MESSAGE_YAML_READER_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <yaml.h>

#include "base/status.h"
#include "base/text.h"

typedef struct kd_yaml_reader {
    yaml_parser_t parser;
    const char *name; /* of the file, or what else stands before a mistake; "": nothing */
    bool has_place;   /* line and column mean something to the reader */
    kd_text path;     /* of the field being read, for mistakes */
} kd_yaml_reader;

KD_MUST_USE kd_status kd_yaml_reader_init(kd_yaml_reader *r,
                                          const char *text,
                                          size_t size_bytes,
                                          const char *name,
                                          bool has_place);
void kd_yaml_reader_release(kd_yaml_reader *r);

/* Appends ".part" to the path, or "part" if it is empty; returns the size to go back to. */
size_t kd_yaml_path_push(kd_yaml_reader *r, const char *part);

/* Fails with "NAME:LINE:COLUMN: PATH: text"; `mark` may be NULL. */
kd_status kd_yaml_mistake(const kd_yaml_reader *r, const yaml_mark_t *mark, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Tells that a type has no field of this name, and the nearest that it has. */
kd_status kd_yaml_unknown_field(kd_yaml_reader *r,
                                const yaml_mark_t *mark,
                                const ProtobufCMessageDescriptor *type,
                                const char *name);

/*
 * Moves to the only document's value. An empty text has none: *empty_out is true then, and
 * *event_out is not set. Otherwise the caller deletes the event.
 */
KD_MUST_USE kd_status kd_yaml_begin(kd_yaml_reader *r, yaml_event_t *event_out, bool *empty_out);
/* Checks that nothing follows the value. */
KD_MUST_USE kd_status kd_yaml_end(kd_yaml_reader *r);

/* Whether the value says that there is none. */
bool kd_yaml_is_null(const yaml_event_t *event);

/*
 * The value that begins with `event` becomes the message's fields, the field, or one more element.
 */
KD_MUST_USE kd_status kd_yaml_read_message(kd_yaml_reader *r,
                                           const yaml_event_t *event,
                                           ProtobufCMessage *message);
KD_MUST_USE kd_status kd_yaml_read_field(kd_yaml_reader *r,
                                         const yaml_event_t *event,
                                         ProtobufCMessage *message,
                                         const ProtobufCFieldDescriptor *field);
KD_MUST_USE kd_status kd_yaml_read_element(kd_yaml_reader *r,
                                           const yaml_event_t *event,
                                           ProtobufCMessage *message,
                                           const ProtobufCFieldDescriptor *field);

#endif
