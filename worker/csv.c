/*
 * csv.c - a table is cut when it is opened, not when it is written: rows of steps that run again would
 * stand there twice.
 */
#include "worker/csv.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"

#define CSV_BYTES_MAX ((size_t)1 << 31)

/* Appends the header and the rows of `old` that are whole and before first_step. */
static void keep_rows(kd_text *kept, const char *old, const char *header, uint64_t first_step)
{
    const size_t n_header = strlen(header);
    kd_text_add(kept, header);
    kd_text_add(kept, "\n");
    if (strncmp(old, header, n_header) != 0 || old[n_header] != '\n') {
        return;
    }
    const char *row = old + n_header + 1;
    for (const char *end = strchr(row, '\n'); end != NULL; end = strchr(row, '\n')) {
        if (strtoull(row, NULL, 10) >= first_step) {
            return;
        }
        kd_text_add_bytes(kept, row, (size_t)(end + 1 - row));
        row = end + 1;
    }
}

static kd_status rewrite(const char *path, const char *header, uint64_t first_step)
{
    char *old = NULL;
    size_t size = 0;
    kd_text kept = {0};

    kd_status st = kd_file_exists(path) ? kd_file_read(path, CSV_BYTES_MAX, &old, &size) : KD_OK;
    if (st) {
        return st;
    }
    keep_rows(&kept, old != NULL ? old : "", header, first_step);
    st = kept.failed ? kd_fail(KD_ERR_NOMEM, "no memory for %s", path)
                     : kd_file_replace(path, kept.data, kept.size);
    kd_text_release(&kept);
    free(old);
    return st;
}

kd_status csv_open(csv *table, const char *path, const char *header, uint64_t first_step)
{
    const kd_status st = rewrite(path, header, first_step);
    if (st) {
        return st;
    }
    char *copy = strdup(path);
    if (copy == NULL) {
        return kd_fail(KD_ERR_NOMEM, "no memory for %s", path);
    }
    const int fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) {
        const kd_status refused = kd_file_fail("open", path);
        free(copy);
        return refused;
    }
    *table = (csv){fd, copy};
    return KD_OK;
}

kd_status csv_add(csv *table, const char *row)
{
    struct iovec parts[] = {{(void *)row, strlen(row)}, {"\n", 1}}; /* only read */
    const ssize_t size = (ssize_t)parts[0].iov_len + 1;
    ssize_t n = 0;
    do {
        n = writev(table->fd, parts, 2);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return kd_file_fail("write", table->path);
    }
    if (n != size) {
        return kd_fail(KD_ERR_IO, "cannot write %s: only a part of a row was taken", table->path);
    }
    return KD_OK;
}

void csv_close(csv *table)
{
    if (table->path != NULL) {
        (void)close(table->fd);
        free(table->path);
        *table = (csv){-1, NULL};
    }
}
