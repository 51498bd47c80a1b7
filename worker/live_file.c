/* live_file.c - whole lines in, whole lines out; what was cut off by a crash is nobody's. */
#include "worker/live_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

#define NAME "changes.jsonl"

kd_status live_file_read(const char *output, char **text_out)
{
    size_t size = 0;
    char *text = NULL;
    char *path = kd_path_join(output, NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = KD_OK;
    if (!kd_file_exists(path)) {
        text = calloc(1, 1);
        st = text == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for %s", path) : KD_OK;
    } else {
        st = kd_file_read(path, LIVE_FILE_BYTES_MAX, &text, &size);
        const char *last = st ? NULL : strrchr(text, '\n');
        const size_t whole = last != NULL ? (size_t)(last - text) + 1 : 0;
        if (!st && whole < size) {
            text[whole] = '\0';
            st = kd_file_replace(path, text, whole);
        }
    }
    free(path);
    if (st) {
        free(text);
        return st;
    }
    *text_out = text;
    return KD_OK;
}

static kd_status write_all(int fd, const char *path, const char *text, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(fd, text, size);
        if (n < 0 && errno != EINTR) {
            return kd_fail(KD_ERR_IO, "cannot write %s: %s", path, strerror(errno));
        }
        text += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return KD_OK;
}

kd_status live_file_append(const char *output, const char *text, size_t size)
{
    char *path = kd_path_join(output, NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = KD_OK;
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        st = kd_fail(KD_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    } else {
        st = write_all(fd, path, text, size);
        if (!st && fsync(fd) != 0) {
            st = kd_fail(KD_ERR_IO, "cannot sync %s: %s", path, strerror(errno));
        }
        (void)close(fd);
    }
    free(path);
    return st ? st : kd_folder_sync(output);
}
