/*
 * attempt_file.c - a secret comes in a file, since command lines and environments can be read by others; its
 * bytes are wiped as soon as they are understood.
 */
#include "worker/attempt_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"

#define ATTEMPT_BYTES_MAX 65536

kd_status attempt_file_read(const char *path, Kd__Attempt **attempt_out)
{
    char *bytes = NULL;
    size_t size = 0;
    const kd_status st = kd_file_read(path, ATTEMPT_BYTES_MAX, &bytes, &size);
    if (st) {
        return st;
    }
    Kd__Attempt *attempt = kd__attempt__unpack(NULL, size, (const uint8_t *)bytes);
    explicit_bzero(bytes, size); /* it holds the secret */
    free(bytes);
    if (attempt == NULL || !attempt->has_secret || attempt->address == NULL) {
        kd__attempt__free_unpacked(attempt, NULL);
        return kd_fail(KD_ERR_PROTO, "%s: expected an attempt with secret and address", path);
    }
    *attempt_out = attempt;
    return KD_OK;
}
