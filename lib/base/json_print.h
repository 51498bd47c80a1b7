/*
 * json_print.h - the one printer of JSON, in calls that follow the text from left to right.
 *
 *     kd_json_printer p = {.text = &text};
 *     kd_json_begin(&p, '{');
 *     kd_json_key(&p, "loss");
 *     kd_json_double(&p, 1.5);
 *     kd_json_end(&p, '}');
 *
 * Commas and line breaks come by themselves. Lacking memory is told by text->failed, once at the end.
 * Bytes of a string that are not UTF-8 become U+FFFD; what is safe in JSON but not in YAML is escaped
 * too, so that a string here is one there. NaN and infinities are null.
 *
 * Threads: any, one printer at a time.
 */
#ifndef KD_BASE_JSON_PRINT_H
#define KD_BASE_JSON_PRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

typedef struct kd_json_printer {
    kd_text *text;
    bool is_indented; /* two spaces a level, for people; otherwise one line */
    unsigned depth;
    bool is_filled;    /* the object or list at hand has an element */
    bool is_after_key; /* what comes next is its value              */
} kd_json_printer;

void kd_json_begin(kd_json_printer *p, char bracket); /* '{' or '[' */
void kd_json_end(kd_json_printer *p, char bracket);   /* '}' or ']' */
void kd_json_key(kd_json_printer *p, const char *name);

void kd_json_string(kd_json_printer *p, const char *string); /* NULL: null */
void kd_json_bytes(kd_json_printer *p, const char *string, size_t size_bytes);
void kd_json_int(kd_json_printer *p, int64_t number);
void kd_json_uint(kd_json_printer *p, uint64_t number);
void kd_json_bool(kd_json_printer *p, bool value);
void kd_json_null(kd_json_printer *p);
/* As few digits as read back the same. */
void kd_json_double(kd_json_printer *p, double number);
void kd_json_float(kd_json_printer *p, float number);
/* The same, seen to be no integer: 10000.0, 1e-6. */
void kd_json_real(kd_json_printer *p, double number);
/* "00000000000004d2": for most readers a JSON number holds 53 bits. */
void kd_json_hex(kd_json_printer *p, uint64_t number);
/* Text that is JSON already. */
void kd_json_raw(kd_json_printer *p, const char *json);

/* A quoted and escaped string by itself. */
void kd_json_add_string(kd_text *text, const char *string, size_t size_bytes);

#endif
