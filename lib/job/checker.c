#include "job/checker.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "message/reflect.h"

#define PATH_BYTES       256
#define FOUND_TEXT_BYTES 80 /* of a text that is shown again */

void kd_checker_add(kd_checker *c, const char *path, const char *format, ...)
{
    char what[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof what, format, args);
    va_end(args);
    kd_text_printf(&c->lines, "%s: %s\n", path, what);
    c->n_mistakes++;
}

bool kd_checker_number(kd_checker *c,
                       const char *path,
                       bool has,
                       uint64_t found,
                       uint64_t min,
                       uint64_t max)
{
    if (!has) {
        kd_checker_add(c, path, "found nothing, expected a number: it is required");
    } else if (found < min || found > max) {
        kd_checker_add(c, path, "found %llu, expected %llu to %llu", (unsigned long long)found,
                       (unsigned long long)min, (unsigned long long)max);
    }
    return has;
}

void kd_checker_real(kd_checker *c, const char *path, double found, bool ok, const char *expected)
{
    if (!ok) {
        kd_checker_add(c, path, "found %g, expected a number %s", found, expected);
    }
}

void kd_checker_path(kd_checker *c, const char *path, const char *found)
{
    if (found == NULL || *found == '\0') {
        kd_checker_add(c, path, "found nothing, expected a path: it is required");
    } else if (*found != '/') {
        kd_checker_add(c, path, "found \"%.*s\", expected an absolute path", FOUND_TEXT_BYTES,
                       found);
    }
}

static void
check_values_below(kd_checker *c, const ProtobufCMessage *message, char *path, size_t size);

static void check_value(kd_checker *c,
                        const ProtobufCFieldDescriptor *field,
                        const void *element,
                        char *path,
                        size_t size)
{
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) {
        check_values_below(c, *(ProtobufCMessage *const *)element, path, size);
    } else if (field->type == PROTOBUF_C_TYPE_DOUBLE) {
        const double found = *(const double *)element;
        kd_checker_real(c, path, found, isfinite(found), "that is finite");
    } else if (field->type == PROTOBUF_C_TYPE_ENUM) {
        const int found = *(const int *)element;
        const ProtobufCEnumDescriptor *type = field->descriptor;
        if (protobuf_c_enum_descriptor_get_value(type, found) == NULL) {
            kd_checker_add(c, path, "found %d, expected one of the %u known values", found,
                           type->n_values);
        }
    }
}

/* `path` has room for PATH_BYTES; its first `size` bytes lead to the message. */
static void
check_values_below(kd_checker *c, const ProtobufCMessage *message, char *path, size_t size)
{
    const char *dot = size > 0 ? "." : "";
    for (unsigned f = 0; f < message->descriptor->n_fields; f++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[f];
        const bool is_list = field->label == PROTOBUF_C_LABEL_REPEATED;
        for (size_t i = 0; i < kd_message_count(message, field); i++) {
            const int n =
                is_list ? snprintf(path + size, PATH_BYTES - size, "%s%s.%zu", dot, field->name, i)
                        : snprintf(path + size, PATH_BYTES - size, "%s%s", dot, field->name);
            KD_CHECK(n > 0 && size + (size_t)n < PATH_BYTES); /* types do not contain themselves */
            check_value(c, field, kd_message_at(message, field, i), path, size + (size_t)n);
        }
    }
    path[size] = '\0';
}

void kd_checker_values(kd_checker *c, const ProtobufCMessage *message)
{
    char path[PATH_BYTES] = "";
    check_values_below(c, message, path, 0);
}
