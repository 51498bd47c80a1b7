/*
 * state_folder.c - a lock that ends with the process, however that ends: a file that says "in use" would
 * outlive a crash.
 */
#include "daemon/state_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

static kd_status refuse(const char *path, int fd)
{
    char holder[32];
    const ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    holder[n > 0 ? n : 0] = '\0';
    holder[strcspn(holder, "\n")] = '\0';
    return kd_fail(KD_ERR_STATE, "state folder %s: in use by another distilld, process %s", path,
                   holder[0] != '\0' ? holder : "unknown");
}

static kd_status take_lock(const char *path, int *lock_out)
{
    char *file = kd_path_join(path, "lock");
    if (file == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = KD_ERR_IO;
    const int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        st = kd_fail(KD_ERR_IO, "cannot open %s: %s", file, strerror(errno));
        goto out_free;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        st = errno == EWOULDBLOCK ? refuse(path, fd)
                                  : kd_fail(KD_ERR_IO, "cannot lock %s: %s", file, strerror(errno));
        goto err_close;
    }
    if (ftruncate(fd, 0) != 0 || dprintf(fd, "%d\n", (int)getpid()) < 0) {
        st = kd_fail(KD_ERR_IO, "cannot write %s: %s", file, strerror(errno));
        goto err_close;
    }
    *lock_out = fd;
    st = KD_OK;
    goto out_free;

err_close:
    (void)close(fd);
out_free:
    free(file);
    return st;
}

kd_status state_folder_open(const char *folder, char **path_out, int *lock_out)
{
    kd_status st = kd_folder_make(folder);
    if (st) {
        return st;
    }
    char *path = realpath(folder, NULL);
    if (path == NULL || chmod(path, 0700) != 0) {
        st = kd_fail(KD_ERR_IO, "state folder %s: %s", folder, strerror(errno));
    } else {
        st = take_lock(path, lock_out);
    }
    if (st) {
        free(path);
        return st;
    }
    *path_out = path;
    return KD_OK;
}

/* Below PATH_MAX: the folder was resolved by realpath(3) and what follows is short. */
void state_job_path(const char *folder, uint64_t job_id, const char *name, char *path_out)
{
    if (snprintf(path_out, PATH_MAX, "%s/jobs/%" PRIu64 "%s", folder, job_id, name) >= PATH_MAX) {
        path_out[0] = '\0'; /* no file has that name: opening it fails and is reported */
    }
}

void state_log_path(const char *folder, uint64_t job_id, uint32_t attempt, char *path_out)
{
    char name[64];
    (void)snprintf(name, sizeof name, "/attempt-%u.log", attempt);
    state_job_path(folder, job_id, name, path_out);
}
