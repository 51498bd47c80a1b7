/*
 * hf_config_cache.c - a few shapes by the identity of their files, the oldest one making room. The
 * file is looked at before it is read: one that is replaced in between is told from its successor by
 * the next stat, and parsed again.
 */
#include "shape/hf_config_cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"

enum { N_ENTRIES = 64 };

typedef struct entry {
    struct stat file; /* st_ino 0: empty */
    kd_model_config config;
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry entries[N_ENTRIES];
static size_t next; /* the one that makes room */

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
           a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static bool recall(const struct stat *file, kd_model_config *config_out)
{
    bool found = false;
    (void)pthread_mutex_lock(&lock);
    for (size_t i = 0; i < N_ENTRIES && !found; i++) {
        if (is_same(&entries[i].file, file)) {
            *config_out = entries[i].config;
            found = true;
        }
    }
    (void)pthread_mutex_unlock(&lock);
    return found;
}

static void remember(const struct stat *file, const kd_model_config *config)
{
    (void)pthread_mutex_lock(&lock);
    entries[next] = (entry){*file, *config};
    next = (next + 1) % N_ENTRIES;
    (void)pthread_mutex_unlock(&lock);
}

static kd_status read_through(const char *path, kd_model_config *config_out)
{
    struct stat file;
    if (stat(path, &file) != 0) {
        const int error = errno;
        return kd_fail(kd_status_of_open_errno(error), "%s: %s", path, strerror(error));
    }
    if (!S_ISREG(file.st_mode)) {
        return kd_fail(KD_ERR_INVALID, "%s: found no regular file, expected one", path);
    }
    if (recall(&file, config_out)) {
        return KD_OK;
    }
    const kd_status st = kd_hf_config_read(path, config_out);
    if (!st) {
        remember(&file, config_out);
    }
    return st;
}

kd_status kd_hf_config_read_cached(const char *folder, kd_model_config *config_out)
{
    char *path = kd_path_join(folder, "config.json");
    if (path == NULL) {
        return kd_fail(KD_ERR_NOMEM, "%s: no memory for a path", folder);
    }
    const kd_status st = read_through(path, config_out);
    free(path);
    return st;
}
