/*
 * writer.h - a file written piece by piece that appears whole or not at all.
 *
 * The bytes go to `path.tmp`; kd_writer_commit() fsyncs it, renames it to `path` and fsyncs the
 * folder. Until then `path` is as it was. One writer at a time for one path.
 *
 *     kd_status st = kd_writer_open(&w, path, 0644);
 *     st = kd_writer_add(&w, data, size);    // as often as needed; on a fault kd_writer_abandon()
 *     st = kd_writer_commit(&w);             // releases w, also on a fault
 *
 * Not thread-safe; every call may block on the disk.
 */
#ifndef KD_BASE_WRITER_H
#define KD_BASE_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct kd_writer {
    int fd;              /* -1 when closed                             */
    char *path;          /* owned                                      */
    char *temporary;     /* owned: path.tmp                            */
    uint8_t *buffer;     /* owned: bytes not yet given to the kernel   */
    size_t buffered;     /* of them                                    */
    uint64_t size_bytes; /* added so far, buffered ones included       */
} kd_writer;

/* A leftover path.tmp is replaced. `mode` is cut by the umask. */
KD_MUST_USE kd_status kd_writer_open(kd_writer *writer, const char *path, unsigned mode);

KD_MUST_USE kd_status kd_writer_add(kd_writer *writer, const void *data, size_t size_bytes);

/* Overwrites bytes that were added before, e.g. a header whose counts come last. */
KD_MUST_USE kd_status kd_writer_patch(kd_writer *writer,
                                      uint64_t offset,
                                      const void *data,
                                      size_t size_bytes);

/* Releases the writer in every case; on a fault path.tmp is removed and path left as it was. */
KD_MUST_USE kd_status kd_writer_commit(kd_writer *writer);

/* Removes path.tmp and releases the writer; fine on one that is closed or {.fd = -1}. */
void kd_writer_abandon(kd_writer *writer);

#endif
