/*
 * path.h - a message's field by its path, which is its one name everywhere.
 *
 * A path is field names and list indexes, from 0, with dots between: "objective.kd.temperature",
 * "teachers.0.dtype", "objective.kd.temperature.points.1.value". A value is YAML, so
 * "2", "cosine", "[a, b]" and "{points: [{step: 0, value: 4}]}" are some.
 *
 * Mistakes are KD_ERR_INVALID (KD_ERR_PROTO if the value is no YAML):
 *
 *     training.stpes: no such field; did you mean "steps"?
 *     training.steps: expected a whole number, found "many"
 *     teachers: found "x", expected an index from 0 to 1
 *
 * Ranges and rules are for check.h and lib/job to judge. Nothing here blocks.
 *
 * Pure. Threads: any, one message at a time.
 */
#ifndef KD_MESSAGE_PATH_H
#define KD_MESSAGE_PATH_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/text.h"

/*
 * Sets a field, or an element of a list; messages on the way are made. An index equal to the list's
 * length appends. An empty or null value makes a field absent; an element cannot be. `name` and ": "
 * stand before mistakes; NULL: nothing does. On an error the message is as it was.
 */
KD_MUST_USE kd_status kd_path_set(ProtobufCMessage *message,
                                  const char *path,
                                  const char *value,
                                  const char *name);

/*
 * Adds the value on one line, as kd_path_set() reads it. Of a field that is absent it is the default
 * of its proto, or nothing if that has none, unless it is worth something all the same
 * (kd_message_unset_value()). KD_ERR_NOT_FOUND: the list has no such element.
 */
KD_MUST_USE kd_status kd_path_get(const ProtobufCMessage *message,
                                  const char *path,
                                  kd_text *value);

/* Whether a path of the message's type leads to something that is there. */
bool kd_path_is_set(const ProtobufCMessage *message, const char *path);

/* What a path leads to. */
typedef struct kd_path_place {
    const ProtobufCMessageDescriptor *type; /* of the message that the field is in */
    const ProtobufCFieldDescriptor *field;
    bool has_index; /* it is the element `index` of the list that is the field */
    size_t index;
    unsigned flags; /* of the field and of all that it is in: a sum of kd_field_flags (facts.h) */
} kd_path_place;

/* Looks a path up by type alone: indexes may be left out, and be any number. */
KD_MUST_USE kd_status kd_path_find(const ProtobufCMessageDescriptor *type,
                                   const char *path,
                                   kd_path_place *place_out);

/* Adds the default of a field's proto, or nothing. */
void kd_path_add_default(kd_text *text, const ProtobufCFieldDescriptor *field);

#endif
