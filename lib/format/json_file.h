/* json_file.h - a JSON file as a whole. Blocks on the disk. */
#ifndef KD_FORMAT_JSON_FILE_H
#define KD_FORMAT_JSON_FILE_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"

/*
 * Any JSON value that is no object is the caller's to refuse. The caller calls json_decref().
 * KD_ERR_NOT_FOUND and KD_ERR_IO as kd_file_read(); KD_ERR_PROTO with path:line:column for what is
 * not JSON, a field that stands twice included.
 */
KD_MUST_USE kd_status kd_json_file_read(const char *path, size_t max_bytes, json_t **root_out);

#endif
