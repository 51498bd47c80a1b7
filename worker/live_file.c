/* live_file.c - whole lines in, whole lines out; what was cut off by a crash is nobody's. */
#include "worker/live_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

#define NAME "changes.jsonl"

/* The file's first line. */
typedef struct head {
    char text[40];
    size_t size;
} head;

static head head_of(const live_file_owner *owner)
{
    head h;
    const int n =
        snprintf(h.text, sizeof h.text, "{\"job\":\"%016llx\"}\n", (unsigned long long)owner->hash);
    h.size = (size_t)n;
    return h;
}

/* The file's whole lines and their bytes; "" without one. */
static kd_status read_lines(const char *path, char **text_out, size_t *size_out)
{
    char *text = NULL;
    size_t size = 0;
    if (!kd_file_exists(path)) {
        text = calloc(1, 1);
        *text_out = text;
        *size_out = 0;
        return text == NULL ? kd_fail(KD_ERR_NOMEM, "no memory for %s", path) : KD_OK;
    }
    kd_status st = kd_file_read(path, LIVE_FILE_BYTES_MAX + sizeof(head), &text, &size);
    if (st) {
        return st;
    }
    const char *last = memrchr(text, '\n', size);
    const size_t whole = last != NULL ? (size_t)(last - text) + 1 : 0;
    if (whole < size) {
        text[whole] = '\0';
        st = kd_file_replace(path, text, whole);
    }
    if (st) {
        free(text);
        return st;
    }
    *text_out = text;
    *size_out = whole;
    return KD_OK;
}

/* A NUL would end the text for whoever reads it, and all changes behind it. */
static kd_status check_bytes(const char *path, const char *text, size_t size)
{
    int line = 1;
    for (size_t i = 0; i < size && text[i] != '\0'; i++) {
        line += text[i] == '\n';
    }
    return strlen(text) == size
               ? KD_OK
               : kd_fail(KD_ERR_PROTO, "%s, line %d: found a byte 0, expected text", path, line);
}

static kd_status move_aside(const char *path)
{
    kd_text old = {0};
    kd_status st = KD_OK;
    kd_text_printf(&old, "%s.old", path);
    if (old.failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory for %s", path);
    } else if (rename(path, old.data) != 0) {
        st = kd_file_fail("move", path);
    } else {
        st = kd_folder_sync_holder(path); /* back after a crash, it would be in the resume's way */
        kd_log(KD_LOG_WARN, "%s: holds the changes of another job: moved to %s", path, old.data);
    }
    kd_text_release(&old);
    return st;
}

/* Leaves the changes of `text`: what is behind the first line if the job itself wrote that, or nothing. */
static kd_status take_own(const char *path, const live_file_owner *owner, char *text, size_t size)
{
    const head own = head_of(owner);
    if (size == 0) {
        return KD_OK;
    }
    if (strncmp(text, own.text, own.size) == 0) {
        const kd_status st = check_bytes(path, text, size);
        if (st) {
            return st;
        }
        memmove(text, text + own.size, strlen(text + own.size) + 1);
        return KD_OK;
    }
    if (owner->resumes) {
        return kd_fail(KD_ERR_INVALID,
                       "%s, line 1: found %.*s, expected %.*s: changes of another job, and those "
                       "that the checkpoint was made with are not known",
                       path, (int)strcspn(text, "\n"), text, (int)own.size - 1, own.text);
    }
    *text = '\0';
    return move_aside(path);
}

kd_status live_file_read(const char *output, const live_file_owner *owner, char **text_out)
{
    char *text = NULL;
    size_t size = 0;
    char *path = kd_path_join(output, NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = read_lines(path, &text, &size);
    if (!st) {
        st = take_own(path, owner, text, size);
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
            return kd_file_fail("write", path);
        }
        text += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return KD_OK;
}

/* Before the first change the job's own line. */
static kd_status add(int fd, const char *path, const live_file_owner *owner, const kd_text *lines)
{
    struct stat info;
    kd_status st = KD_OK;
    if (fstat(fd, &info) != 0) {
        return kd_file_fail("look at", path);
    }
    if (info.st_size == 0) {
        const head own = head_of(owner);
        st = write_all(fd, path, own.text, own.size);
    }
    if (!st) {
        st = write_all(fd, path, lines->data, lines->size);
    }
    if (!st && fsync(fd) != 0) {
        st = kd_file_fail("sync", path);
    }
    return st;
}

kd_status live_file_append(const char *output, const live_file_owner *owner, const kd_text *lines)
{
    char *path = kd_path_join(output, NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = KD_OK;
    const int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        st = kd_file_fail("open", path);
    } else {
        st = add(fd, path, owner, lines);
        (void)close(fd);
    }
    free(path);
    return st ? st : kd_folder_sync(output);
}
