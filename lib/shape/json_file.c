/*
 * json_file.c - jansson reads, our printer writes: one form of numbers and strings in all files. A field
 * that stands twice is refused, since readers disagree on which one counts.
 */
#include "shape/json_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"

kd_status kd_json_file_read(const char *path, size_t max_bytes, json_t **root_out)
{
    char *text;
    size_t size;
    json_error_t error;
    const kd_status st = kd_file_read(path, max_bytes, &text, &size);
    if (st) {
        return st;
    }
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    free(text);
    if (root == NULL) {
        return kd_fail(KD_ERR_PROTO, "%s:%d:%d: not valid JSON: %s", path, error.line, error.column,
                       error.text);
    }
    *root_out = root;
    return KD_OK;
}

kd_status kd_json_field_fail(const char *path, const char *field, const char *expected)
{
    return kd_fail(KD_ERR_PROTO, "%s: field \"%s\" is missing or wrong: expected %s", path, field,
                   expected);
}

bool kd_json_hex_read(const json_t *value, uint64_t *value_out)
{
    const char *text = json_string_value(value);
    if (text == NULL || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16) {
        return false;
    }
    *value_out = strtoull(text, NULL, 16);
    return true;
}

kd_status
kd_json_field_hex(const char *path, const json_t *object, const char *field, uint64_t *value_out)
{
    const json_t *value = json_object_get(object, field);
    return kd_json_hex_read(value, value_out)
               ? KD_OK
               : kd_json_field_fail(path, field, "16 hexadecimal digits");
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void print_object(kd_json_printer *p, const json_t *object, bool is_sorted)
{
    const size_t n = json_object_size(object);
    const char **keys = malloc((n + 1) * sizeof *keys);
    size_t i = 0;
    const char *key;
    const json_t *value;

    if (keys == NULL) {
        p->text->failed = true;
        return;
    }
    json_object_foreach((json_t *)object, key, value) /* only read */
    {
        keys[i++] = key;
    }
    if (is_sorted) {
        qsort(keys, n, sizeof *keys, compare_keys);
    }
    kd_json_begin(p, '{');
    for (i = 0; i < n; i++) {
        kd_json_key(p, keys[i]);
        kd_json_tree(p, json_object_get(object, keys[i]), is_sorted);
    }
    kd_json_end(p, '}');
    free(keys);
}

static void print_array(kd_json_printer *p, const json_t *array, bool is_sorted)
{
    kd_json_begin(p, '[');
    for (size_t i = 0; i < json_array_size(array); i++) {
        kd_json_tree(p, json_array_get(array, i), is_sorted);
    }
    kd_json_end(p, ']');
}

void kd_json_tree(kd_json_printer *p, const json_t *value, bool is_sorted)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        print_object(p, value, is_sorted);
        return;
    case JSON_ARRAY:
        print_array(p, value, is_sorted);
        return;
    case JSON_STRING:
        kd_json_bytes(p, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER:
        kd_json_int(p, json_integer_value(value));
        return;
    case JSON_REAL:
        kd_json_real(p, json_real_value(value));
        return;
    case JSON_TRUE:
    case JSON_FALSE:
        kd_json_bool(p, json_is_true(value));
        return;
    case JSON_NULL:
        kd_json_null(p);
        return;
    }
}

kd_status kd_json_file_write(const char *path, const json_t *root)
{
    kd_text text = {0};
    kd_json_printer p = {.text = &text, .is_indented = true};
    if (root != NULL) {
        kd_json_tree(&p, root, true);
    }
    const kd_status st = root == NULL || text.failed
                             ? kd_fail(KD_ERR_NOMEM, "no memory to write %s", path)
                             : kd_file_replace(path, text.data, text.size);
    kd_text_release(&text);
    return st;
}
