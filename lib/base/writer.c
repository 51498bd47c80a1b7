/*
 * writer.c - a file under another name until it is whole. Small pieces are gathered, large ones go
 * straight through; the hash and the sync are the caller's and the end's, not the pieces'.
 */
#include "base/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"

enum { BUFFER_BYTES = 1 << 18 };

static void release(kd_writer *writer)
{
    free(writer->path);
    free(writer->temporary);
    free(writer->buffer);
    *writer = (kd_writer){.fd = -1};
}

static kd_status allocate(kd_writer *writer, const char *path)
{
    const size_t n = strlen(path);

    *writer = (kd_writer){.fd = -1};
    writer->path = strdup(path);
    writer->temporary = malloc(n + sizeof ".tmp");
    writer->buffer = malloc(BUFFER_BYTES);
    if (writer->path == NULL || writer->temporary == NULL || writer->buffer == NULL) {
        release(writer);
        return kd_fail(KD_ERR_NOMEM, "no memory to write %s", path);
    }
    memcpy(writer->temporary, path, n);
    memcpy(writer->temporary + n, ".tmp", sizeof ".tmp");
    return KD_OK;
}

kd_status kd_writer_open(kd_writer *writer, const char *path, unsigned mode)
{
    kd_writer opened;
    kd_status st = allocate(&opened, path);
    if (st) {
        return st;
    }
    /* A fresh file: the leftover of a crash may have another mode, or be a link. */
    if (unlink(opened.temporary) != 0 && errno != ENOENT) {
        st = kd_file_fail("replace", opened.temporary);
        goto err_release;
    }
    const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
    do {
        opened.fd = open(opened.temporary, flags, (mode_t)mode);
    } while (opened.fd < 0 && errno == EINTR);
    if (opened.fd < 0) {
        st = kd_file_fail("create", opened.temporary);
        goto err_release;
    }
    *writer = opened;
    return KD_OK;

err_release:
    release(&opened);
    return st;
}

static kd_status write_at(kd_writer *writer, uint64_t offset, const uint8_t *data, size_t size)
{
    while (size > 0) {
        const ssize_t n = pwrite(writer->fd, data, size, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return kd_fail(KD_ERR_IO, "cannot write %s: %s, at byte %llu", writer->temporary,
                           n < 0 ? strerror(errno) : "nothing was written",
                           (unsigned long long)offset);
        }
        data += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
        kd_progress_tick();
    }
    return KD_OK;
}

static kd_status flush(kd_writer *writer)
{
    const uint64_t at = writer->size_bytes - writer->buffered;
    kd_status st = write_at(writer, at, writer->buffer, writer->buffered);
    if (st) {
        return st;
    }
    writer->buffered = 0;
    return KD_OK;
}

kd_status kd_writer_add(kd_writer *writer, const void *data, size_t size_bytes)
{
    if (size_bytes > BUFFER_BYTES - writer->buffered) {
        kd_status st = flush(writer);
        if (st) {
            return st;
        }
    }
    if (size_bytes > BUFFER_BYTES) {
        kd_status st = write_at(writer, writer->size_bytes, data, size_bytes);
        if (st) {
            return st;
        }
    } else if (size_bytes > 0) {
        memcpy(writer->buffer + writer->buffered, data, size_bytes);
        writer->buffered += size_bytes;
    }
    writer->size_bytes += size_bytes;
    return KD_OK;
}

kd_status kd_writer_patch(kd_writer *writer, uint64_t offset, const void *data, size_t size_bytes)
{
    KD_CHECK(size_bytes <= writer->size_bytes && offset <= writer->size_bytes - size_bytes);
    kd_status st = flush(writer);
    if (st) {
        return st;
    }
    return write_at(writer, offset, data, size_bytes);
}

static kd_status sync_and_close(kd_writer *writer)
{
    if (fsync(writer->fd) != 0) {
        return kd_file_fail("fsync", writer->temporary);
    }
    const int fd = writer->fd;
    writer->fd = -1; /* closed even where close() complains */
    if (close(fd) != 0 && errno != EINTR) {
        return kd_file_fail("close", writer->temporary);
    }
    return KD_OK;
}

kd_status kd_writer_commit(kd_writer *writer)
{
    kd_status st = flush(writer);
    if (st) {
        goto err_abandon;
    }
    st = sync_and_close(writer);
    if (st) {
        goto err_abandon;
    }
    if (rename(writer->temporary, writer->path) != 0) {
        st = kd_file_fail("rename to", writer->path);
        goto err_abandon;
    }
    st = kd_folder_sync_holder(writer->path);
    release(writer);
    return st;

err_abandon:
    kd_writer_abandon(writer);
    return st;
}

void kd_writer_abandon(kd_writer *writer)
{
    if (writer->fd >= 0) {
        (void)close(writer->fd);
    }
    if (writer->temporary != NULL) {
        (void)unlink(writer->temporary);
    }
    release(writer);
}
