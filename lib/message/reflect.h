/*
 * reflect.h - protobuf-c messages of any type, by their descriptors (proto2).
 *
 * A message here is one that kd_message_create(), kd_message_copy() or protobuf-c's unpack made:
 * all it points to is on the heap, or is a default of its descriptor. kd_message_destroy() and the
 * generated free_unpacked functions free it.
 *
 * Enum words are the proto names in lower case. A type whose first field is named `value`
 * (Schedule) may be written as that bare value, and its absence means something of its own.
 *
 * Threads: any, one message at a time.
 */
#ifndef KD_MESSAGE_REFLECT_H
#define KD_MESSAGE_REFLECT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/text.h"

/* NULL without memory. A copy has what absent numbers are worth, too (kd_message_unset_value()). */
ProtobufCMessage *kd_message_create(const ProtobufCMessageDescriptor *type);
ProtobufCMessage *kd_message_copy(const ProtobufCMessage *message);
void kd_message_destroy(ProtobufCMessage *message); /* NULL is fine */

/* Same type, and the same fields set to the same values. */
bool kd_message_equal(const ProtobufCMessage *a, const ProtobufCMessage *b);

/*
 * Whether it, or a message in it, came with fields that its type does not have. protobuf-c keeps
 * them, but does not always read again what it writes of them.
 */
bool kd_message_has_unknown(const ProtobufCMessage *message);

/*
 * Allocates every absent sub-message, recursively, and sets every absent field that has a default
 * in its proto, so that readers need no NULL checks. Left alone: repeated fields that are empty,
 * members of a oneof, types with a bare `value`, and messages that have to be asked for (fields.h). KD_ERR_NOMEM leaves the message partly filled
 * and valid.
 */
KD_MUST_USE kd_status kd_message_fill(ProtobufCMessage *message);

/* NULL if there is no such field. */
const ProtobufCFieldDescriptor *kd_message_field(const ProtobufCMessageDescriptor *type,
                                                 const char *name);
/* The field name nearest to a misspelt one, or NULL. */
const char *kd_message_nearest_field(const ProtobufCMessageDescriptor *type, const char *name);
/* The first field if it is named `value`, otherwise NULL. */
const ProtobufCFieldDescriptor *kd_message_value_field(const ProtobufCMessageDescriptor *type);

/* What a value of the field is, for people: "text", "a word", "a whole number", "fields", ... */
const char *kd_field_kind(const ProtobufCFieldDescriptor *field);

/* Elements in a repeated field; 0 or 1 for a singular one that is absent or set. */
size_t kd_message_count(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);
/*
 * Where element i stands; i < kd_message_count(), or 0 for a singular field even if it is absent.
 */
void *
kd_message_at(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, size_t i);
/*
 * Where the number of an absent field stands that is worth another than its default, as kd_job_complete()
 * leaves one that is not the job's own; NULL of all other fields.
 */
const void *kd_message_unset_value(const ProtobufCMessage *message,
                                   const ProtobufCFieldDescriptor *field);
/* Frees what is there; the field is absent (or empty, if repeated) and reads as its default. */
void kd_message_clear(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field);
/*
 * Adds one element, which `element` points to (a number, a malloc'ed string, a message): a repeated
 * field grows by it, a singular one is set to it, and what it or its oneof held is freed. The
 * message owns it then. Returns where it stands; NULL without memory, and then it is still the
 * caller's.
 */
void *kd_message_add_element(ProtobufCMessage *message,
                             const ProtobufCFieldDescriptor *field,
                             const void *element);

/* Puts the last element of a repeated field in the place of element i, which is freed. */
void kd_message_replace_by_last(ProtobufCMessage *message,
                                const ProtobufCFieldDescriptor *field,
                                size_t i);

/* Adds the lower-case word of an enum value, or its number if it has none. */
void kd_enum_add_word(kd_text *text, const ProtobufCEnumDescriptor *type, int value);

#endif
