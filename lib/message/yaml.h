/*
 * yaml.h - YAML text to a message, and back, by reflection.
 *
 * Field names are those of the proto, enums are lower-case words, bytes fields are not supported
 * (no job has one). A message whose first field is `value` may be a bare scalar: `weight: 0.7`.
 * Text after kd_yaml_print() parses to an equal message.
 *
 * A mistake is KD_ERR_INVALID (KD_ERR_PROTO if it is no YAML) with one of these texts:
 *
 *     FILE:LINE:COLUMN: objective.kd.wieght: no such field; did you mean "weight"?
 *     FILE:LINE:COLUMN: training.steps: expected a whole number, found "many"
 *     --set: training.stpes: no such field; did you mean "steps"?
 *
 * A field whose value is null, ~ or nothing is left out. Refused: a field given twice, anchors,
 * aliases and tags, more than one document, text above KD_YAML_BYTES_MAX. Nesting is bounded by
 * that of the message types. An empty text is an empty message.
 *
 * Pure. Threads: any, one message at a time.
 */
#ifndef KD_MESSAGE_YAML_H
#define KD_MESSAGE_YAML_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "base/status.h"
#include "base/text.h"

#define KD_YAML_BYTES_MAX (1u << 20)

/* `name` stands for FILE in the texts. The caller frees *message_out. */
KD_MUST_USE kd_status kd_yaml_parse(const char *text,
                                    size_t size_bytes,
                                    const char *name,
                                    const ProtobufCMessageDescriptor *type,
                                    ProtobufCMessage **message_out);

/*
 * Applies "PATH=VALUE" as path.h has it: "teachers.0.checkpoint=/m", "data.files=[a, b]". The texts
 * begin with "--set: ". On an error the message is as it was.
 */
KD_MUST_USE kd_status kd_yaml_set(ProtobufCMessage *message, const char *assignment);

/* The field that can stand for the whole message, if it is the only one set; otherwise NULL. */
const ProtobufCFieldDescriptor *kd_yaml_bare_value(const ProtobufCMessage *message);

/* Adds the set fields as block YAML; text->failed tells of lacking memory. */
void kd_yaml_print(kd_text *text, const ProtobufCMessage *message);

#endif
