/*
 * json.h - a message as JSON text, by reflection.
 *
 * Field names are those of the proto, enums are lower-case words, 64-bit integers are plain
 * numbers, bytes are base64, doubles have 15 to 17 significant digits, as few as read back the
 * same; NaN and infinities are null. Bytes of a string that are not UTF-8 become U+FFFD.
 *
 * Pure. Threads: any.
 */
#ifndef KD_MESSAGE_JSON_H
#define KD_MESSAGE_JSON_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "base/json_print.h"

typedef enum kd_json_flags {
    KD_JSON_SET_ONLY = 0,
    KD_JSON_DEFAULTS = 1, /* absent fields too: their default, empty lists, null for the rest */
    KD_JSON_INDENT = 2,   /* two spaces a level, for people; otherwise one line */
} kd_json_flags;

/* text->failed tells of lacking memory. `flags` is a sum of kd_json_flags. */
void kd_json_print(kd_text *text, const ProtobufCMessage *message, unsigned flags);

/* The same as a value within other output; KD_JSON_INDENT is the printer's. */
void kd_json_message(kd_json_printer *p, const ProtobufCMessage *message, unsigned flags);

#endif
