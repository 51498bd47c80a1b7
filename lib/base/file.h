/*
 * file.h - whole files, folders, and writes that survive a crash.
 *
 * Every function reports a fault with the path, the operation and errno's text.
 * All of them block on the disk.
 *
 * Threads: any.
 */
#ifndef KD_BASE_FILE_H
#define KD_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A read-only mapping of a whole file; an empty file has data NULL and size 0. */
typedef struct kd_mapping {
    const uint8_t *data;
    size_t size_bytes;
} kd_mapping;

/* KD_ERR_NOT_FOUND if there is no such file. */
KD_MUST_USE kd_status kd_file_map(const char *path, kd_mapping *mapping_out);
void kd_file_unmap(kd_mapping *mapping);

/* *data_out is malloc'ed, NUL-terminated behind its size, the caller's to free. */
KD_MUST_USE kd_status kd_file_read(const char *path,
                                   size_t max_bytes,
                                   char **data_out,
                                   size_t *size_out);

/*
 * Writes path.tmp, fsyncs it, renames it to path, fsyncs the folder; mode 0644 unless given, cut
 * by the umask. A large file is written piece by piece with writer.h.
 */
KD_MUST_USE kd_status kd_file_replace(const char *path, const void *data, size_t size_bytes);
KD_MUST_USE kd_status kd_file_replace_mode(const char *path,
                                           const void *data,
                                           size_t size_bytes,
                                           unsigned mode);

/*
 * Like mkdir -p; fine if it exists. A folder that is made is durable: fsync of the one that holds it, unless
 * that may not be read, when it is as durable as the system makes it by itself.
 */
KD_MUST_USE kd_status kd_folder_make(const char *path);
/* fsync of a folder, so that renames and creations in it are durable. */
KD_MUST_USE kd_status kd_folder_sync(const char *path);
/* The same of the folder that holds `path`, which ends in no slash. */
KD_MUST_USE kd_status kd_folder_sync_holder(const char *path);
/* Removes a folder and all below it; fine if it does not exist. A link below goes, what it points
 * to stays; a `path` that is a link itself is refused. */
KD_MUST_USE kd_status kd_folder_remove(const char *path);

/*
 * False only where there is surely nothing: what cannot be told counts as there, so that whoever opens
 * it learns why, instead of going on without it.
 */
bool kd_file_exists(const char *path);

/*
 * What an errno of a path means to whoever would try again: KD_ERR_INVALID where the path itself
 * is wrong and stays so (a file where a folder must be, no permission, too long); else KD_ERR_IO, also
 * for ENOENT, of which kd_status_of_open_errno() makes KD_ERR_NOT_FOUND for those who open to read. The
 * functions of this file and of writer.h answer by them.
 */
kd_status kd_status_of_errno(int error);
kd_status kd_status_of_open_errno(int error);

/* Tells "cannot OPERATION PATH: ..." of errno, and returns what kd_status_of_errno() makes of it. */
kd_status kd_file_fail(const char *operation, const char *path);

/* The folder that holds `path`, which ends in no slash, malloc'ed: "." of a bare name. NULL as below. */
char *kd_path_holder(const char *path);

/* Joins with one slash into a malloc'ed string. NULL without memory: KD_ERR_NOMEM, and it is told. */
char *kd_path_join(const char *folder, const char *name);

#endif
