#include "format/json_file.h"

#include <stdlib.h>

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
