/*
 * json_file.h - a JSON file as a whole: jansson reads it, our own printer writes it. Blocks on the disk.
 *
 * Threads: any.
 */
#ifndef KD_SHAPE_JSON_FILE_H
#define KD_SHAPE_JSON_FILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json_print.h"
#include "base/status.h"

/*
 * Any JSON value that is no object is the caller's to refuse. The caller calls json_decref().
 * KD_ERR_NOT_FOUND and KD_ERR_IO as kd_file_read(); KD_ERR_PROTO with path:line:column for what is
 * not JSON, a field that stands twice included.
 */
KD_MUST_USE kd_status kd_json_file_read(const char *path, size_t max_bytes, json_t **root_out);

/* KD_ERR_PROTO, which names the field of the file and says what was expected of it. */
KD_MUST_USE kd_status kd_json_field_fail(const char *path, const char *field, const char *expected);

/* A text of 16 hexadecimal digits, as kd_json_hex() prints it; false if it is none. */
bool kd_json_hex_read(const json_t *value, uint64_t *value_out);

/* A field of such: 16 hexadecimal digits. KD_ERR_PROTO if it is not there or is none. */
KD_MUST_USE kd_status kd_json_field_hex(const char *path,
                                        const json_t *object,
                                        const char *field,
                                        uint64_t *value_out);

/* Indented, with the keys of each object in the order of their bytes. NULL: KD_ERR_NOMEM. */
KD_MUST_USE kd_status kd_json_file_write(const char *path, const json_t *root);

/* A tree of jansson's as text, with sorted keys or as they were set. */
void kd_json_tree(kd_json_printer *p, const json_t *value, bool is_sorted);

#endif
