/*
 * reflect.c - protobuf-c gives offsets, labels and types, and no functions: here they become get, add,
 * clear and copy. All that is allocated is so that protobuf-c's own free functions may end it.
 */
#include "message/reflect.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "message/fields.h"

typedef ProtobufCFieldDescriptor field_descriptor;

ProtobufCMessage *kd_message_create(const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = malloc(type->sizeof_message);
    if (message != NULL) {
        protobuf_c_message_init(type, message);
    }
    return message;
}

void kd_message_destroy(ProtobufCMessage *message)
{
    protobuf_c_message_free_unpacked(message, NULL);
}

/* The packed bytes of a message, malloc'ed; NULL without memory. */
static uint8_t *pack(const ProtobufCMessage *message, size_t *size_out)
{
    *size_out = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(*size_out + 1); /* an empty message is no lack of memory */
    if (bytes != NULL) {
        (void)protobuf_c_message_pack(message, bytes);
    }
    return bytes;
}

bool kd_message_equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t size_a, size_b;
    uint8_t *bytes_a = pack(a, &size_a);
    uint8_t *bytes_b = pack(b, &size_b);
    const bool equal = bytes_a != NULL && bytes_b != NULL && a->descriptor == b->descriptor &&
                       size_a == size_b && memcmp(bytes_a, bytes_b, size_a) == 0;
    free(bytes_a);
    free(bytes_b);
    return equal;
}

const field_descriptor *kd_message_field(const ProtobufCMessageDescriptor *type, const char *name)
{
    return protobuf_c_message_descriptor_get_field_by_name(type, name);
}

const char *kd_message_nearest_field(const ProtobufCMessageDescriptor *type, const char *name)
{
    const char **names = calloc(type->n_fields + 1, sizeof *names);
    if (names == NULL) {
        return NULL; /* the message goes out without a hint */
    }
    for (unsigned i = 0; i < type->n_fields; i++) {
        names[i] = type->fields[i].name;
    }
    const char *nearest = kd_text_nearest(name, names, type->n_fields);
    free(names);
    return nearest;
}

const field_descriptor *kd_message_value_field(const ProtobufCMessageDescriptor *type)
{
    const bool has = type->n_fields > 0 && strcmp(type->fields[0].name, "value") == 0;
    return has ? &type->fields[0] : NULL;
}

static bool is_oneof(const field_descriptor *field)
{
    return (field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0;
}

static void *member(const ProtobufCMessage *message, const field_descriptor *field)
{
    return (uint8_t *)message + field->offset;
}

static void *quantifier(const ProtobufCMessage *message, const field_descriptor *field)
{
    return (uint8_t *)message + field->quantifier_offset;
}

static bool is_pointer(const field_descriptor *field)
{
    return field->type == PROTOBUF_C_TYPE_STRING || field->type == PROTOBUF_C_TYPE_MESSAGE;
}

static size_t element_bytes(const field_descriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM:
        return 4;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
        return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    }
    KD_CHECK(!"a field type that protobuf-c has");
    return 0;
}

size_t kd_message_count(const ProtobufCMessage *message, const field_descriptor *field)
{
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return *(const size_t *)quantifier(message, field);
    }
    if (is_oneof(field)) {
        return *(const uint32_t *)quantifier(message, field) == field->id;
    }
    if (is_pointer(field)) {
        const void *pointer = *(void *const *)member(message, field);
        return pointer != NULL && pointer != field->default_value;
    }
    return *(const protobuf_c_boolean *)quantifier(message, field) != 0;
}

void *kd_message_at(const ProtobufCMessage *message, const field_descriptor *field, size_t i)
{
    if (field->label != PROTOBUF_C_LABEL_REPEATED) {
        return member(message, field);
    }
    uint8_t *elements = *(uint8_t **)member(message, field);
    return elements + i * element_bytes(field);
}

/* One whose bytes are its value, and which can be absent: its place is its own even then. */
static bool is_lone_number(const field_descriptor *field)
{
    return field->label == PROTOBUF_C_LABEL_OPTIONAL && !is_pointer(field) && !is_oneof(field) &&
           field->type != PROTOBUF_C_TYPE_BYTES;
}

const void *kd_message_unset_value(const ProtobufCMessage *message, const field_descriptor *field)
{
    static const uint8_t zero[sizeof(double)];
    if (!is_lone_number(field) || kd_message_count(message, field) > 0) {
        return NULL;
    }
    const void *usual = field->default_value != NULL ? field->default_value : zero;
    const void *value = member(message, field);
    return memcmp(value, usual, element_bytes(field)) != 0 ? value : NULL;
}

/* What packing leaves out: absent fields are not written, whatever they are worth. */
static void copy_unset_values(const ProtobufCMessage *from, ProtobufCMessage *to)
{
    for (unsigned f = 0; f < from->descriptor->n_fields; f++) {
        const field_descriptor *field = &from->descriptor->fields[f];
        const void *value = kd_message_unset_value(from, field);
        if (value != NULL) {
            memcpy(member(to, field), value, element_bytes(field));
        }
        const size_t n = field->type == PROTOBUF_C_TYPE_MESSAGE ? kd_message_count(from, field) : 0;
        for (size_t i = 0; i < n; i++) {
            copy_unset_values(*(ProtobufCMessage **)kd_message_at(from, field, i),
                              *(ProtobufCMessage **)kd_message_at(to, field, i));
        }
    }
}

ProtobufCMessage *kd_message_copy(const ProtobufCMessage *message)
{
    size_t size;
    uint8_t *bytes = pack(message, &size);
    if (bytes == NULL) {
        return NULL;
    }
    ProtobufCMessage *copy = protobuf_c_message_unpack(message->descriptor, NULL, size, bytes);
    free(bytes);
    if (copy != NULL) {
        copy_unset_values(message, copy);
    }
    return copy;
}

/* Frees what an element points to, which is not a default. */
static void release_element(const field_descriptor *field, void *element)
{
    if (field->type == PROTOBUF_C_TYPE_STRING) {
        free(*(char **)element);
    } else if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        kd_message_destroy(*(ProtobufCMessage **)element);
    } else if (field->type == PROTOBUF_C_TYPE_BYTES) {
        free(((ProtobufCBinaryData *)element)->data);
    }
}

static void set_default(const field_descriptor *field, void *element)
{
    if (is_pointer(field)) {
        *(const void **)element = field->default_value;
    } else if (field->default_value != NULL) {
        memcpy(element, field->default_value, element_bytes(field));
    } else {
        memset(element, 0, element_bytes(field));
    }
}

static void set_quantifier(ProtobufCMessage *message, const field_descriptor *field, bool set)
{
    if (is_oneof(field)) {
        *(uint32_t *)quantifier(message, field) = set ? field->id : 0;
    } else if (!is_pointer(field)) {
        *(protobuf_c_boolean *)quantifier(message, field) = set;
    }
}

void kd_message_clear(ProtobufCMessage *message, const field_descriptor *field)
{
    const size_t n = kd_message_count(message, field);
    for (size_t i = 0; i < n; i++) {
        release_element(field, kd_message_at(message, field, i));
    }
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        void **elements = member(message, field);
        free(*elements);
        *elements = NULL;
        *(size_t *)quantifier(message, field) = 0;
    } else if (n != 0 || is_lone_number(field)) { /* absent already, it may be worth something */
        set_default(field, member(message, field));
        set_quantifier(message, field, false);
    }
}

static void *append(ProtobufCMessage *message, const field_descriptor *field, const void *element)
{
    size_t *n = quantifier(message, field);
    void **elements = member(message, field);
    const size_t size = element_bytes(field);
    void *grown = realloc(*elements, (*n + 1) * size);
    if (grown == NULL) {
        return NULL;
    }
    *elements = grown;
    return memcpy((uint8_t *)grown + (*n)++ * size, element, size);
}

/* Members of a oneof share their place and their quantifier. */
static void clear_oneof(ProtobufCMessage *message, const field_descriptor *field)
{
    const ProtobufCMessageDescriptor *type = message->descriptor;
    for (unsigned i = 0; i < type->n_fields; i++) {
        if (is_oneof(&type->fields[i]) &&
            type->fields[i].quantifier_offset == field->quantifier_offset) {
            kd_message_clear(message, &type->fields[i]);
        }
    }
}

void *kd_message_add_element(ProtobufCMessage *message,
                             const field_descriptor *field,
                             const void *element)
{
    if (field->label == PROTOBUF_C_LABEL_REPEATED) {
        return append(message, field, element);
    }
    if (is_oneof(field)) {
        clear_oneof(message, field);
    }
    kd_message_clear(message, field);
    set_quantifier(message, field, true);
    return memcpy(member(message, field), element, element_bytes(field));
}

void kd_message_replace_by_last(ProtobufCMessage *message, const field_descriptor *field, size_t i)
{
    size_t *n = quantifier(message, field);
    KD_CHECK(i + 1 < *n);
    void *place = kd_message_at(message, field, i);
    release_element(field, place);
    memcpy(place, kd_message_at(message, field, --*n), element_bytes(field));
}

bool kd_message_has_unknown(const ProtobufCMessage *message)
{
    bool found = message->n_unknown_fields > 0;
    for (unsigned f = 0; f < message->descriptor->n_fields && !found; f++) {
        const field_descriptor *field = &message->descriptor->fields[f];
        const size_t n =
            field->type == PROTOBUF_C_TYPE_MESSAGE ? kd_message_count(message, field) : 0;
        for (size_t i = 0; i < n && !found; i++) {
            found = kd_message_has_unknown(*(ProtobufCMessage **)kd_message_at(message, field, i));
        }
    }
    return found;
}

/* Makes a field that reads as its default one that is set to it. */
static kd_status fill_default(ProtobufCMessage *message, const field_descriptor *field)
{
    if (field->type != PROTOBUF_C_TYPE_STRING) {
        set_quantifier(message, field, true); /* the value is there since the init */
        return KD_OK;
    }
    char *copy = strdup(field->default_value);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", field->name);
    }
    (void)kd_message_add_element(message, field, &copy);
    return KD_OK;
}

static kd_status fill_message(ProtobufCMessage *message, const field_descriptor *field)
{
    ProtobufCMessage **sub = member(message, field);
    if (*sub == NULL) {
        *sub = kd_message_create(field->descriptor);
    }
    if (*sub == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory", field->name);
    }
    return kd_message_fill(*sub);
}

static kd_status fill_elements(ProtobufCMessage *message, const field_descriptor *field)
{
    for (size_t i = 0; i < kd_message_count(message, field); i++) {
        kd_status st = kd_message_fill(*(ProtobufCMessage **)kd_message_at(message, field, i));
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static bool stands_by_itself(const ProtobufCMessage *message, const field_descriptor *field)
{
    const kd_field_facts *facts = kd_field_facts_of(message->descriptor, field);
    const bool asked = facts != NULL && (facts->flags & KD_FIELD_ASKED) != 0;
    return !asked && kd_message_value_field(field->descriptor) == NULL;
}

static kd_status fill_field(ProtobufCMessage *message, const field_descriptor *field)
{
    const bool is_message = field->type == PROTOBUF_C_TYPE_MESSAGE;
    const bool is_set = kd_message_count(message, field) != 0;
    if (is_oneof(field)) {
        return KD_OK;
    }
    if (is_message && field->label == PROTOBUF_C_LABEL_REPEATED) {
        return fill_elements(message, field);
    }
    if (is_message && (is_set || stands_by_itself(message, field))) {
        return fill_message(message, field);
    }
    if (!is_message && !is_set && field->default_value != NULL) {
        return fill_default(message, field);
    }
    return KD_OK;
}

kd_status kd_message_fill(ProtobufCMessage *message)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        kd_status st = fill_field(message, &message->descriptor->fields[i]);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

void kd_enum_add_word(kd_text *text, const ProtobufCEnumDescriptor *type, int value)
{
    const ProtobufCEnumValue *known = protobuf_c_enum_descriptor_get_value(type, value);
    if (known == NULL) {
        kd_text_printf(text, "%d", value);
        return;
    }
    for (const char *letter = known->name; *letter != '\0'; letter++) {
        const char lower = (char)tolower((unsigned char)*letter);
        kd_text_add_bytes(text, &lower, 1);
    }
}

const char *kd_field_kind(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_STRING:
        return "text";
    case PROTOBUF_C_TYPE_ENUM:
        return "a word";
    case PROTOBUF_C_TYPE_BOOL:
        return "true or false";
    case PROTOBUF_C_TYPE_DOUBLE:
    case PROTOBUF_C_TYPE_FLOAT:
        return "a number";
    case PROTOBUF_C_TYPE_MESSAGE:
        return "fields";
    case PROTOBUF_C_TYPE_BYTES:
        return "bytes";
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return "a whole number";
    }
    return "a value";
}
