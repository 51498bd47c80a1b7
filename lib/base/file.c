/*
 * file.c - what was written is believed only when file and folder were both synced: without the second a
 * rename may be lost with the power. Descriptors, not paths, are followed downward when a folder is
 * removed, since a link may take a name's place meanwhile.
 */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "base/writer.h"

kd_status kd_status_of_errno(int error)
{
    switch (error) {
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case ELOOP:
    case ENAMETOOLONG:
    case EACCES:
        return KD_ERR_INVALID;
    default:
        return KD_ERR_IO;
    }
}

kd_status kd_status_of_open_errno(int error)
{
    return error == ENOENT ? KD_ERR_NOT_FOUND : kd_status_of_errno(error);
}

kd_status kd_file_fail(const char *operation, const char *path)
{
    const int error = errno;
    return kd_fail(kd_status_of_errno(error), "cannot %s %s: %s", operation, path, strerror(error));
}

static kd_status open_to_read(const char *path, int *fd_out)
{
    int fd;
    do {
        fd = open(path, O_RDONLY | O_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0) {
        *fd_out = fd;
        return KD_OK;
    }
    if (errno == ENOENT) {
        return kd_fail(KD_ERR_NOT_FOUND, "cannot open %s: there is no such file", path);
    }
    return kd_file_fail("open", path);
}

static kd_status map_fd(int fd, const char *path, kd_mapping *mapping_out)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return kd_file_fail("stat", path);
    }
    if (!S_ISREG(info.st_mode)) {
        return kd_fail(KD_ERR_INVALID, "cannot map %s: it is not a regular file", path);
    }
    if (info.st_size == 0) {
        *mapping_out = (kd_mapping){0};
        return KD_OK;
    }
    const size_t size = (size_t)info.st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
        return kd_file_fail("map", path);
    }
    *mapping_out = (kd_mapping){.data = data, .size_bytes = size};
    return KD_OK;
}

kd_status kd_file_map(const char *path, kd_mapping *mapping_out)
{
    int fd = -1;
    kd_status st = open_to_read(path, &fd);
    if (st) {
        return st;
    }
    st = map_fd(fd, path, mapping_out);
    (void)close(fd); /* the mapping keeps the file */
    return st;
}

void kd_file_unmap(kd_mapping *mapping)
{
    if (mapping->data != NULL) {
        KD_CHECK(munmap((void *)mapping->data, mapping->size_bytes) == 0);
    }
    *mapping = (kd_mapping){0};
}

/* Appends what `fd` holds up to its end, and fails once it is more than max_bytes. */
static kd_status read_to_end(int fd, const char *path, size_t max_bytes, kd_text *text)
{
    char chunk[1 << 14];

    kd_text_add(text, ""); /* an empty file gives an empty string, not NULL */
    for (;;) {
        const ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return kd_file_fail("read", path);
        }
        if (n == 0) {
            break;
        }
        if ((size_t)n > max_bytes - text->size) {
            return kd_fail(KD_ERR_INVALID, "%s is too large: expected at most %zu bytes", path,
                           max_bytes);
        }
        kd_text_add_bytes(text, chunk, (size_t)n);
    }
    return text->failed ? kd_fail(KD_ERR_NOMEM, "no memory to read %s", path) : KD_OK;
}

kd_status kd_file_read(const char *path, size_t max_bytes, char **data_out, size_t *size_out)
{
    kd_text text = {0};
    int fd = -1;
    kd_status st = open_to_read(path, &fd);
    if (st) {
        return st;
    }
    st = read_to_end(fd, path, max_bytes, &text);
    (void)close(fd);
    if (st) {
        kd_text_release(&text);
        return st;
    }
    *data_out = text.data;
    *size_out = text.size;
    return KD_OK;
}

kd_status kd_file_replace_mode(const char *path, const void *data, size_t size_bytes, unsigned mode)
{
    kd_writer writer;
    kd_status st = kd_writer_open(&writer, path, mode);
    if (st) {
        return st;
    }
    st = kd_writer_add(&writer, data, size_bytes);
    if (st) {
        kd_writer_abandon(&writer);
        return st;
    }
    return kd_writer_commit(&writer);
}

kd_status kd_file_replace(const char *path, const void *data, size_t size_bytes)
{
    return kd_file_replace_mode(path, data, size_bytes, 0644);
}

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* may_be_closed: a folder that is there to write to and not to read cannot be opened for it, and need not. */
static kd_status sync_folder(const char *path, bool may_be_closed)
{
    kd_status st = KD_OK;
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return may_be_closed && errno == EACCES ? KD_OK : kd_file_fail("open folder", path);
    }
    if (fsync(fd) != 0 && errno != EINVAL) { /* EINVAL: this file system syncs no folders */
        st = kd_file_fail("fsync folder", path);
    }
    (void)close(fd);
    return st;
}

static kd_status make_one(const char *path)
{
    if (mkdir(path, 0777) == 0) {
        char *holder = kd_path_holder(path);
        const kd_status st = holder != NULL ? sync_folder(holder, true) : KD_ERR_NOMEM;
        free(holder);
        return st;
    }
    const int error = errno;
    if (is_folder(path)) {
        return KD_OK;
    }
    errno = error;
    return kd_file_fail("make folder", path);
}

kd_status kd_folder_make(const char *path)
{
    kd_status st = KD_OK;
    char *prefix = strdup(path);
    if (prefix == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to make folder %s", path);
    }
    for (size_t n = strlen(prefix); n > 1 && prefix[n - 1] == '/';) {
        prefix[--n] = '\0';
    }
    for (char *c = prefix; *c != '\0' && !st; c++) {
        if (*c == '/' && c > prefix && c[-1] != '/') {
            *c = '\0';
            st = make_one(prefix);
            *c = '/';
        }
    }
    if (!st) {
        st = make_one(prefix);
    }
    free(prefix);
    return st;
}

kd_status kd_folder_sync(const char *path)
{
    return sync_folder(path, false);
}

char *kd_path_holder(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *holder = slash == NULL   ? strdup(".")
                   : slash == path ? strdup("/")
                                   : strndup(path, (size_t)(slash - path));
    if (holder == NULL) {
        (void)kd_fail(KD_ERR_NOMEM, "no memory for the folder of %s", path);
    }
    return holder;
}

kd_status kd_folder_sync_holder(const char *path)
{
    char *holder = kd_path_holder(path);
    const kd_status st = holder != NULL ? kd_folder_sync(holder) : KD_ERR_NOMEM;
    free(holder);
    return st;
}

static kd_status fail_below(const char *operation, const char *name, const char *top)
{
    const int error = errno;
    return kd_fail(kd_status_of_errno(error), "cannot %s %s while removing %s: %s", operation, name,
                   top, strerror(error));
}

static kd_status empty_folder(DIR *folder, const char *top);

/* Removes the entry `name` of the folder `parent_fd` and what is below it, following no links. */
static kd_status remove_entry(int parent_fd, const char *name, const char *top)
{
    if (unlinkat(parent_fd, name, 0) == 0 || errno == ENOENT) {
        return KD_OK;
    }
    if (errno != EISDIR && errno != EPERM) {
        return fail_below("remove", name, top);
    }
    const int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    if (folder == NULL) {
        const kd_status st = fail_below("open", name, top);
        if (fd >= 0) {
            (void)close(fd);
        }
        return st;
    }
    const kd_status st = empty_folder(folder, top);
    (void)closedir(folder);
    if (st) {
        return st;
    }
    if (unlinkat(parent_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT) {
        return fail_below("remove", name, top);
    }
    return KD_OK;
}

static kd_status empty_folder(DIR *folder, const char *top)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(folder);
        if (entry == NULL) {
            return errno == 0 ? KD_OK : fail_below("list a folder", "", top);
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        const kd_status st = remove_entry(dirfd(folder), entry->d_name, top);
        if (st) {
            return st;
        }
    }
}

kd_status kd_folder_remove(const char *path)
{
    struct stat info;
    if (lstat(path, &info) != 0) {
        return errno == ENOENT ? KD_OK : kd_file_fail("remove folder", path);
    }
    if (!S_ISDIR(info.st_mode)) {
        errno = ENOTDIR;
        return kd_file_fail("remove folder", path);
    }
    return remove_entry(AT_FDCWD, path, path);
}

bool kd_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

char *kd_path_join(const char *folder, const char *name)
{
    kd_text joined = {0};

    while (*name == '/') {
        name++;
    }
    kd_text_add(&joined, folder);
    while (joined.size > 1 && joined.data[joined.size - 1] == '/') {
        joined.data[--joined.size] = '\0';
    }
    if (joined.size > 0 && strcmp(joined.data, "/") != 0) {
        kd_text_add(&joined, "/");
    }
    kd_text_add(&joined, name);
    if (joined.failed) {
        kd_text_release(&joined);
        (void)kd_fail(KD_ERR_NOMEM, "no memory for a path in %s", folder);
        return NULL;
    }
    return joined.data;
}
