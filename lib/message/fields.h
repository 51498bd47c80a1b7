/*
 * fields.h - what a job's field means beyond its type: range, flags, default in words, meaning.
 *
 * The facts stand in the trailing comments of proto/job.proto and proto/daemon.proto, in the
 * grammar that job.proto states; the program in lib/message/generate makes a table of them at build
 * time. Messages of other files have no facts.
 *
 * Everything here is constant and may be read from any thread.
 */
#ifndef KD_MESSAGE_FIELDS_H
#define KD_MESSAGE_FIELDS_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

#include "message/facts.h"

/* NULL if there are none. */
const kd_field_facts *kd_field_facts_of(const ProtobufCMessageDescriptor *type,
                                        const ProtobufCFieldDescriptor *field);
/* By names: "kd.Training", "steps". */
const kd_field_facts *kd_field_facts_named(const char *type, const char *field);

/* What a word of an enum means, or NULL if its file does not say. */
const char *kd_word_meaning(const ProtobufCEnumDescriptor *type, const char *word);

/* The generated tables, in strcmp's order of type, then name. */
extern const kd_field_facts kd_fields_table[];
extern const size_t kd_n_fields;
extern const kd_word_facts kd_words_table[];
extern const size_t kd_n_words;

#endif
