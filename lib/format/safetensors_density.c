/*
 * A tensor is one object of 49 bytes at least, and with eight dimensions of one digit it has five bytes for
 * each value. It is four members of objects, and may have as many in the metadata.
 */
#include "format/safetensors_density.h"

#include "base/log.h"

/* Where the string that begins at `at` ends: its last quote, or the end of the text. */
static size_t end_of_string(const uint8_t *bytes, size_t at, size_t length)
{
    for (at++; at < length && bytes[at] != '"'; at++) {
        at += bytes[at] == '\\';
    }
    return at;
}

/* What stands in a text outside its strings. */
typedef struct density {
    size_t n_objects, n_members, n_values;
} density;

static density count_values(const uint8_t *bytes, size_t length)
{
    density d = {0};
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] == '"') {
            i = end_of_string(bytes, i, length);
        }
        const uint8_t c = i < length ? bytes[i] : 0;
        d.n_objects += c == '{';
        d.n_members += c == ':';
        d.n_values += c == ',' || c == '{' || c == '[';
    }
    return d;
}

kd_status kd_safetensors_check_density(const char *path, const uint8_t *bytes, size_t length)
{
    enum { OBJECT_BYTES = 40, VALUE_BYTES = 4, MEMBERS = 8, FEW = 4096 };

    const density d = count_values(bytes, length);
    if (d.n_objects > FEW + length / OBJECT_BYTES || d.n_values > FEW + length / VALUE_BYTES ||
        d.n_members > FEW + MEMBERS * d.n_objects) {
        return kd_fail(
            KD_ERR_PROTO,
            "%s: the header has %zu values and %zu objects of %zu members in %zu bytes, "
            "more than any list of tensors: expected at least %d bytes a value and %d an "
            "object, and at most %d members in each",
            path, d.n_values, d.n_objects, d.n_members, length, VALUE_BYTES, OBJECT_BYTES, MEMBERS);
    }
    return KD_OK;
}
