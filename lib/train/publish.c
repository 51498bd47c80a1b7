/*
 * publish.c - a model folder that others read while it is replaced: old and new change names in one move
 * where the file system can, so that there is always one to be seen.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "train/checkpoint_file.h"

static kd_status fail_rename(const char *from, const char *to)
{
    const int error = errno;
    if (error == ENOTDIR) {
        return kd_fail(KD_ERR_INVALID, "%s: found a file, expected a folder or nothing", to);
    }
    return kd_fail(kd_status_of_errno(error), "cannot rename %s to %s: %s", from, to,
                   strerror(error));
}

/* Two moves, where the file system cannot exchange: the old folder steps aside, and back if need be. */
static kd_status move_aside(const char *temporary, const char *path, const char *aside)
{
    kd_status st = kd_folder_remove(aside); /* of a process that died between the two */
    if (st) {
        return st;
    }
    if (rename(path, aside) != 0) {
        return fail_rename(path, aside);
    }
    if (rename(temporary, path) != 0) {
        st = fail_rename(temporary, path);
        if (rename(aside, path) != 0) {
            kd_log(KD_LOG_WARN, "cannot rename %s back to %s: %s", aside, path, strerror(errno));
        }
    }
    return st;
}

/* Both names change owners in one move; what was replaced, now `temporary`, is removed. */
static kd_status swap(const char *temporary, const char *path, const char *aside)
{
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
        return kd_folder_remove(temporary);
    }
    if (errno != EINVAL && errno != ENOSYS) { /* not every shared file system can */
        return fail_rename(temporary, path);
    }
    return move_aside(temporary, path, aside);
}

void kd_folder_discard(const char *folder)
{
    if (kd_folder_remove(folder)) {
        kd_log(KD_LOG_WARN, "%s is left behind", folder);
    }
}

kd_status kd_folder_publish(const char *temporary, const char *path)
{
    kd_status st = KD_OK;
    kd_text aside = {0};
    kd_text_printf(&aside, "%s" KD_FOLDER_ASIDE, temporary);
    if (aside.failed) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to rename %s", temporary);
    } else if (rename(temporary, path) != 0) {
        const bool occupied = errno == ENOTEMPTY || errno == EEXIST;
        st = occupied ? swap(temporary, path, aside.data) : fail_rename(temporary, path);
    }
    if (!st) {
        st = kd_folder_sync_holder(path);
    }
    if (!st) { /* what stepped aside now, or before a process died between the two moves */
        kd_folder_discard(aside.data);
    }
    kd_text_release(&aside);
    return st;
}

/* PARENT/.NAME.tmp, beside `path`, whose parent is made. NULL with a fault reported. */
static kd_status temporary_beside(const char *path, char **temporary_out)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    kd_text text = {0};
    char *parent = kd_path_holder(path);

    if (parent == NULL) {
        return KD_ERR_NOMEM;
    }
    const kd_status st = kd_folder_make(parent);
    if (!st) {
        kd_text_printf(&text, "%s/.%s.tmp", parent, name);
    }
    free(parent);
    if (st) {
        return st;
    }
    if (text.failed) {
        kd_text_release(&text);
        return kd_fail(KD_ERR_NOMEM, "no memory to write %s", path);
    }
    *temporary_out = text.data;
    return KD_OK;
}

static kd_status write_model(const char *folder,
                             const kd_parameters *params,
                             kd_status (*add_files)(void *user, const char *folder),
                             void *user)
{
    kd_status st = kd_folder_remove(folder);
    if (!st) {
        st = kd_model_folder_save(folder, params, params->be->compute);
    }
    if (!st && add_files != NULL) {
        st = add_files(user, folder);
    }
    if (!st) {
        st = kd_manifest_write(folder);
    }
    return st;
}

/* The path without the slashes at its end; NULL with a fault reported. */
static char *trim(const char *path)
{
    size_t size = strlen(path);
    while (size > 1 && path[size - 1] == '/') {
        size--;
    }
    char *trimmed = strndup(path, size);
    if (trimmed == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory to write %s", path);
    }
    return trimmed;
}

kd_status kd_model_export(const char *folder,
                          const kd_parameters *params,
                          kd_status (*add_files)(void *user, const char *folder),
                          void *user)
{
    char *path = trim(folder);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    char *temporary = NULL;
    kd_status st = kd_manifest_covers(path);
    if (!st) {
        st = temporary_beside(path, &temporary);
    }
    if (!st) {
        st = write_model(temporary, params, add_files, user);
        if (!st) {
            st = kd_folder_publish(temporary, path);
        }
        if (st) {
            kd_folder_discard(temporary);
        }
    }
    free(temporary);
    free(path);
    return st;
}
