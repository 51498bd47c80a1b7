/*
 * scalar.h - one YAML scalar as the value of a protobuf field, and back.
 *
 * Pure. Threads: any.
 */
#ifndef KD_MESSAGE_SCALAR_H
#define KD_MESSAGE_SCALAR_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/text.h"

typedef struct kd_scalar {
    const char *text; /* NUL-terminated behind its length */
    size_t length;
    bool quoted; /* then it is a string, whatever it looks like */
} kd_scalar;

/* Any field's element; the largest member is cleared before use. */
typedef union kd_element {
    ProtobufCBinaryData bytes;
    int32_t i32;
    uint32_t u32;
    int64_t i64;
    uint64_t u64;
    float f32;
    double f64;
    protobuf_c_boolean boolean;
    char *string; /* malloc'ed */
} kd_element;

/* Plain null, ~ or nothing: a field that is left out. */
bool kd_scalar_is_null(const kd_scalar *scalar);

/*
 * Reads a scalar as a value of the field's type, which is not a message. KD_ERR_INVALID: `mistake`
 * got what was expected and found. KD_ERR_NOMEM. Neither is reported yet.
 */
KD_MUST_USE kd_status kd_scalar_read(const ProtobufCFieldDescriptor *field,
                                     const kd_scalar *scalar,
                                     kd_element *element_out,
                                     kd_text *mistake);

/* Adds "text" in quotes for a person: cut when long, bytes that do not print, or are not UTF-8, as \xNN. */
void kd_scalar_quote(kd_text *text, const char *bytes, size_t length);

/* Adds an element of a field that is no message as YAML that kd_scalar_read() reads back. */
void kd_scalar_add(kd_text *text, const ProtobufCFieldDescriptor *field, const void *element);

#endif
