#include "tests/support/temporary.h"

#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static void require(bool fine, const char *what, const char *path)
{
    if (!fine) {
        (void)fprintf(stderr, "temporary: cannot %s %s: %s\n", what, path, strerror(errno));
        abort();
    }
}

void temporary_enter(void)
{
    (void)strcpy(folder, "/tmp/kd-test-XXXXXX"); /* short: it has to fit the path of a socket */
    require(mkdtemp(folder) != NULL, "make", folder);
    require(chdir(folder) == 0, "enter", folder);
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

void temporary_leave(void)
{
    enum { N_DESCRIPTORS = 16 };

    require(chdir("/") == 0, "enter", "/");
    require(nftw(folder, remove_entry, N_DESCRIPTORS, FTW_DEPTH | FTW_PHYS) == 0, "remove", folder);
}

const char *temporary_folder(void)
{
    return folder;
}

const char *temporary_path(const char *format, ...)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];
    const int n = snprintf(path, sizeof paths[0], "%s/", folder);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(path + n, sizeof paths[0] - (size_t)n, format, args);
    va_end(args);
    return path;
}

bool temporary_same(const char *path, const char *other)
{
    FILE *a = fopen(path, "rb"), *b = fopen(other, "rb");
    require(a != NULL, "open", path);
    require(b != NULL, "open", other);
    int x, y;
    do {
        x = getc(a);
        y = getc(b);
    } while (x == y && x != EOF);
    require(!ferror(a), "read", path);
    require(!ferror(b), "read", other);
    (void)fclose(a);
    (void)fclose(b);
    return x == y;
}

void temporary_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    require(file != NULL, "create", path);
    const bool written = fputs(text, file) >= 0;
    require(fclose(file) == 0 && written, "write", path);
}
