/*
 * manifest.c - the seal of a folder. It is written last and by rename, so a folder whose manifest verifies
 * was whole when it was sealed; files are synced by it, since a seal on what is not on the disk yet would
 * lie. Names in it may lead nowhere else: it comes with models of strangers.
 */
#include "format/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "shape/json_file.h"

enum { VERSION = 1, MANIFEST_BYTES_MAX = 16 << 20, BUFFER_BYTES = 1 << 18 };

typedef struct digest {
    uint64_t size_bytes;
    uint64_t xxh3;
} digest;

/* The hash of a file that is being written must be had; only who reads may be told to end. */
static kd_status
hash_fd(int fd, const char *path, bool is_written, XXH3_state_t *state, digest *digest_out)
{
    uint8_t *buffer = malloc(BUFFER_BYTES);
    uint64_t size = 0;
    ssize_t n = 1;
    kd_status st = KD_OK;

    if (buffer == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to hash %s", path);
    }
    XXH3_64bits_reset(state);
    while (!st && n > 0) {
        do {
            n = read(fd, buffer, BUFFER_BYTES);
        } while (n < 0 && errno == EINTR);
        if (n > 0) {
            XXH3_64bits_update(state, buffer, (size_t)n);
            size += (uint64_t)n;
            if (is_written) {
                kd_progress_tick();
            } else {
                st = kd_progress_go_on();
            }
        }
    }
    st = n < 0 ? kd_file_fail("read", path) : st;
    free(buffer);
    if (st) {
        return st;
    }
    *digest_out = (digest){.size_bytes = size, .xxh3 = XXH3_64bits_digest(state)};
    return KD_OK;
}

/* Fsyncs too where `sync` is set: a read-only descriptor will do for that. */
static kd_status hash_file(const char *path, bool sync, digest *digest_out)
{
    kd_status st = KD_OK;
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to hash %s", path);
    }
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        st = kd_file_fail("open", path);
        goto out_free;
    }
    if (sync && fsync(fd) != 0) {
        st = kd_file_fail("fsync", path);
        goto out_close;
    }
    st = hash_fd(fd, path, sync, state, digest_out);

out_close:
    (void)close(fd);
out_free:
    XXH3_freeState(state);
    return st;
}

static bool is_temporary(const char *name)
{
    const size_t n = strlen(name);
    return n >= 4 && strcmp(name + n - 4, ".tmp") == 0;
}

/* A file that cannot be looked at is no reason to seal the folder without it. */
static kd_status belongs(const char *name, const char *path, bool *belongs_out)
{
    struct stat info;
    *belongs_out = false;
    if (name[0] == '.' || is_temporary(name) || strcmp(name, KD_MANIFEST_NAME) == 0) {
        return KD_OK;
    }
    if (stat(path, &info) != 0) {
        return errno == ENOENT ? KD_OK : kd_file_fail("stat", path);
    }
    *belongs_out = S_ISREG(info.st_mode);
    return KD_OK;
}

static kd_status add_file(const char *path, const char *name, digest d, json_t *files)
{
    char hash[17];
    if (name[kd_utf8_span(name)] != '\0') {
        return kd_fail(KD_ERR_ARG, "cannot list %s: its name is not UTF-8", path);
    }
    (void)snprintf(hash, sizeof hash, "%016" PRIx64, d.xxh3);
    json_t *value = json_pack("{s:I, s:s}", "size", (json_int_t)d.size_bytes, "xxh3", hash);
    if (json_object_set_new(files, name, value) != 0) {
        return kd_fail(KD_ERR_NOMEM, "no memory to list %s", path);
    }
    return KD_OK;
}

static kd_status list_file(const char *folder, const char *name, json_t *files)
{
    digest d = {0};
    bool is_part = false;

    char *path = kd_path_join(folder, name);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = belongs(name, path, &is_part);
    if (!st && is_part) {
        st = hash_file(path, true, &d);
    }
    if (!st && is_part) {
        st = add_file(path, name, d, files);
    }
    free(path);
    return st;
}

static kd_status list_folder(const char *folder, json_t *files)
{
    kd_status st = KD_OK;
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return kd_file_fail("list folder", folder);
    }
    while (!st) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            st = errno == 0 ? KD_OK : kd_file_fail("list folder", folder);
            break;
        }
        st = list_file(folder, entry->d_name, files);
    }
    (void)closedir(dir);
    return st;
}

/* Takes `files` over. */
static kd_status save(const char *path, json_t *files)
{
    json_t *root = json_pack("{s:i, s:o}", "version", VERSION, "files", files);
    const kd_status st = kd_json_file_write(path, root);
    json_decref(root);
    return st;
}

bool kd_manifest_exists(const char *folder)
{
    char *path = kd_path_join(folder, KD_MANIFEST_NAME);
    const bool exists = path == NULL || kd_file_exists(path);
    free(path);
    return exists;
}

kd_status kd_manifest_write(const char *folder)
{
    json_t *files = json_object();
    char *path = kd_path_join(folder, KD_MANIFEST_NAME);
    kd_status st = KD_OK;

    if (files == NULL || path == NULL) {
        st = kd_fail(KD_ERR_NOMEM, "no memory to list %s", folder);
        goto err_free;
    }
    st = list_folder(folder, files);
    if (st) {
        goto err_free;
    }
    st = save(path, files);
    free(path);
    return st;

err_free:
    json_decref(files);
    free(path);
    return st;
}

/* Names lead nowhere but into the folder; sizes and hashes have the form that save() gives them. */
static kd_status
parse_file(const char *path, const char *name, const json_t *value, digest *digest_out)
{
    const json_t *size = json_object_get(value, "size");
    digest found = {0};

    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL) {
        return kd_fail(KD_ERR_PROTO, "%s: \"%.200s\" is not the name of a file of this folder",
                       path, name);
    }
    if (!json_is_integer(size) || json_integer_value(size) < 0 ||
        !kd_json_hex_read(json_object_get(value, "xxh3"), &found.xxh3)) {
        return kd_fail(KD_ERR_PROTO,
                       "%s: file \"%.200s\": expected an integer in \"size\" and 16 hexadecimal "
                       "digits in \"xxh3\"",
                       path, name);
    }
    found.size_bytes = (uint64_t)json_integer_value(size);
    *digest_out = found;
    return KD_OK;
}

static kd_status check_digest(const char *path, digest expected)
{
    digest found = {0};

    if (!kd_file_exists(path)) {
        return kd_fail(KD_ERR_INVALID, "%s is missing, expected %" PRIu64 " bytes as in %s", path,
                       expected.size_bytes, KD_MANIFEST_NAME);
    }
    const kd_status st = hash_file(path, false, &found);
    if (st) {
        return st;
    }
    if (found.size_bytes != expected.size_bytes) {
        return kd_fail(KD_ERR_INVALID,
                       "%s is %" PRIu64 " bytes long, expected %" PRIu64 " as in %s", path,
                       found.size_bytes, expected.size_bytes, KD_MANIFEST_NAME);
    }
    if (found.xxh3 != expected.xxh3) {
        return kd_fail(KD_ERR_INVALID,
                       "%s has the hash %016" PRIx64 ", expected %016" PRIx64 " as in %s", path,
                       found.xxh3, expected.xxh3, KD_MANIFEST_NAME);
    }
    return KD_OK;
}

static kd_status
check_file(const char *folder, const char *path, const char *name, const json_t *value)
{
    digest expected = {0};
    kd_status st = parse_file(path, name, value, &expected);
    if (st) {
        return st;
    }
    char *file = kd_path_join(folder, name);
    if (file == NULL) {
        return KD_ERR_NOMEM;
    }
    st = check_digest(file, expected);
    free(file);
    return st;
}

static kd_status check_files(const char *folder, const char *path, json_t *files, void *user)
{
    (void)user;
    const char *name;
    json_t *value;

    json_object_foreach(files, name, value)
    {
        const kd_status st = check_file(folder, path, name, value);
        if (st) {
            return st;
        }
    }
    return KD_OK;
}

static kd_status load(const char *path, json_t **root_out)
{
    json_t *root;
    const kd_status st = kd_json_file_read(path, MANIFEST_BYTES_MAX, &root);
    if (st) {
        return st;
    }
    if (json_integer_value(json_object_get(root, "version")) != VERSION ||
        !json_is_object(json_object_get(root, "files"))) {
        json_decref(root);
        return kd_fail(KD_ERR_PROTO,
                       "%s: expected an object with \"version\" %d and an object \"files\"", path,
                       VERSION);
    }
    *root_out = root;
    return KD_OK;
}

/* Reads and checks the manifest, then hands its files to `use`. */
static kd_status
with_files(const char *folder,
           kd_status (*use)(const char *folder, const char *path, json_t *files, void *user),
           void *user)
{
    json_t *root = NULL;

    char *path = kd_path_join(folder, KD_MANIFEST_NAME);
    if (path == NULL) {
        return KD_ERR_NOMEM;
    }
    kd_status st = load(path, &root);
    if (!st) {
        st = use(folder, path, json_object_get(root, "files"), user);
        json_decref(root);
    }
    free(path);
    return st;
}

kd_status kd_manifest_verify(const char *folder)
{
    return with_files(folder, check_files, NULL);
}

static kd_status check_names(const char *folder, const char *path, json_t *files, void *user)
{
    (void)folder;
    for (const char *const *name = user; *name != NULL; name++) {
        if (json_object_get(files, *name) == NULL) {
            return kd_fail(
                KD_ERR_INVALID,
                "%s does not list %.200s: expected each file that is read, with its hash", path,
                *name);
        }
    }
    return KD_OK;
}

kd_status kd_manifest_lists(const char *folder, const char *const *names)
{
    return with_files(folder, check_names, (void *)names); /* only read */
}

static kd_status check_some(const char *folder, const char *path, json_t *files, void *user)
{
    kd_status st = check_names(folder, path, files, user);
    for (const char *const *name = user; *name != NULL && !st; name++) {
        st = check_file(folder, path, *name, json_object_get(files, *name));
    }
    return st;
}

kd_status kd_manifest_verify_files(const char *folder, const char *const *names)
{
    return with_files(folder, check_some, (void *)names); /* only read */
}

/* `files` NULL: there is no manifest. */
static kd_status check_entries(DIR *dir, const char *folder, const json_t *files)
{
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            return errno == 0 ? KD_OK : kd_file_fail("list folder", folder);
        }
        const char *name = entry->d_name;
        const bool is_ours = strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
                             (files != NULL && strcmp(name, KD_MANIFEST_NAME) == 0) ||
                             json_object_get(files, name) != NULL;
        if (!is_ours) {
            return kd_fail(KD_ERR_INVALID,
                           "%s is not replaced: it holds \"%.200s\", which no %s there lists; "
                           "expected a folder that was written here, or none",
                           folder, name, KD_MANIFEST_NAME);
        }
    }
}

static kd_status check_listing(const char *folder, const char *path, json_t *files, void *user)
{
    (void)path;
    return check_entries(user, folder, files);
}

kd_status kd_manifest_covers(const char *folder)
{
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        return errno == ENOENT ? KD_OK : kd_file_fail("list folder", folder);
    }
    const kd_status st = kd_manifest_exists(folder) ? with_files(folder, check_listing, dir)
                                                    : check_entries(dir, folder, NULL);
    (void)closedir(dir);
    return st;
}

static int compare_names(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static kd_status hash_list(const char *path, json_t *files, const char **names, uint64_t *out)
{
    XXH3_state_t *state = XXH3_createState();
    kd_status st = KD_OK;
    if (state == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to hash %s", path);
    }
    XXH3_64bits_reset(state);
    for (size_t i = 0; i < json_object_size(files) && !st; i++) {
        digest d = {0};
        st = parse_file(path, names[i], json_object_get(files, names[i]), &d);
        XXH3_64bits_update(state, names[i], strlen(names[i]) + 1);
        XXH3_64bits_update(state, &d, sizeof d);
    }
    if (!st) {
        *out = XXH3_64bits_digest(state);
    }
    XXH3_freeState(state);
    return st;
}

static kd_status digest_files(const char *folder, const char *path, json_t *files, void *user)
{
    const char *name;
    json_t *value;
    size_t n = 0;
    const char **names = malloc((json_object_size(files) + 1) * sizeof *names);

    if (names == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory to list %s", folder);
    }
    json_object_foreach(files, name, value)
    {
        names[n++] = name;
    }
    qsort(names, n, sizeof *names, compare_names);
    const kd_status st = hash_list(path, files, names, user);
    free(names);
    return st;
}

kd_status kd_manifest_digest(const char *folder, uint64_t *digest_out)
{
    return with_files(folder, digest_files, digest_out);
}
