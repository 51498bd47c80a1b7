#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/writer.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
}

TestSuite(file, .init = enter, .fini = temporary_leave);

static void expect_holds(const char *path, const char *text)
{
    char *data;
    size_t size;
    cr_assert(eq(int, kd_file_read(path, 1 << 20, &data, &size), KD_OK));
    cr_expect(eq(str, data, (char *)text));
    cr_expect(eq(sz, size, strlen(text)));
    free(data);
}

Test(file, a_long_file_is_written_with_signs_of_progress)
{
    static const char piece[1 << 16];
    const uint64_t before = kd_progress_count();
    kd_writer writer;
    cr_assert(eq(int, kd_writer_open(&writer, "a", 0644), KD_OK));
    for (int i = 0; i < 16; i++) {
        cr_assert(eq(int, kd_writer_add(&writer, piece, sizeof piece), KD_OK));
    }
    cr_expect(ge(u64, kd_progress_count() - before, 3), "before it is committed");
    cr_expect(eq(int, kd_writer_commit(&writer), KD_OK));
}

Test(file, what_was_replaced_reads_and_maps_back)
{
    kd_mapping mapping;
    cr_assert(eq(int, kd_file_replace("a", "old", 3), KD_OK));
    cr_assert(eq(int, kd_file_replace("a", "newer", 5), KD_OK));
    expect_holds("a", "newer");
    cr_assert(eq(int, kd_file_map("a", &mapping), KD_OK));
    cr_expect(eq(sz, mapping.size_bytes, 5));
    cr_expect(memcmp(mapping.data, "newer", 5) == 0);
    kd_file_unmap(&mapping);
    cr_expect(mapping.data == NULL);
    cr_expect(not(kd_file_exists("a.tmp")));
}

Test(file, an_empty_file_maps_to_nothing_and_reads_as_an_empty_string)
{
    kd_mapping mapping = {(const uint8_t *)"x", 1};
    cr_assert(eq(int, kd_file_replace("empty", "", 0), KD_OK));
    cr_assert(eq(int, kd_file_map("empty", &mapping), KD_OK));
    cr_expect(mapping.data == NULL && mapping.size_bytes == 0);
    kd_file_unmap(&mapping);
    expect_holds("empty", "");
}

Test(file, a_missing_file_is_not_found_and_named)
{
    kd_mapping mapping = {NULL, 77};
    char *data = (char *)1;
    size_t size = 7;
    cr_expect(eq(int, kd_file_map("gone", &mapping), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("gone");
    cr_expect(eq(sz, mapping.size_bytes, 77));
    cr_expect(eq(int, kd_file_read("gone", 10, &data, &size), KD_ERR_NOT_FOUND));
    cr_expect(data == (char *)1 && size == 7);
    cr_expect(not(kd_file_exists("gone")));
}

Test(file, a_folder_is_no_file)
{
    kd_mapping mapping;
    char *data;
    size_t size;
    cr_expect(eq(int, kd_file_map(temporary_folder(), &mapping), KD_ERR_INVALID));
    EXPECT_FAULT("not a regular file");
    cr_expect(eq(int, kd_file_read(temporary_folder(), 10, &data, &size), KD_ERR_INVALID));
    EXPECT_FAULT(temporary_folder());
}

Test(file, reading_more_than_allowed_is_refused)
{
    char *data;
    size_t size;
    cr_assert(eq(int, kd_file_replace("ten", "0123456789", 10), KD_OK));
    cr_expect(eq(int, kd_file_read("ten", 9, &data, &size), KD_ERR_INVALID));
    EXPECT_FAULT("at most 9 bytes");
    cr_assert(eq(int, kd_file_read("ten", 10, &data, &size), KD_OK));
    free(data);
}

Test(file, the_mode_holds_even_over_a_leftover)
{
    struct stat info;
    cr_assert(close(creat("secret.tmp", 0666)) == 0);
    cr_assert(eq(int, kd_file_replace_mode("secret", "s", 1, 0600), KD_OK));
    cr_assert(stat("secret", &info) == 0);
    cr_expect(eq(int, (int)(info.st_mode & 0777), 0600));
}

Test(file, a_leftover_link_is_replaced_not_followed)
{
    cr_assert(eq(int, kd_file_replace("victim", "safe", 4), KD_OK));
    cr_assert(symlink("victim", "a.tmp") == 0);
    cr_assert(eq(int, kd_file_replace("a", "new", 3), KD_OK));
    expect_holds("victim", "safe");
    expect_holds("a", "new");
}

Test(file, replacing_in_a_missing_folder_names_the_path)
{
    cr_expect(eq(int, kd_file_replace("no/such/file", "x", 1), KD_ERR_IO));
    EXPECT_FAULT("no/such/file");
    EXPECT_FAULT("No such file");
}

/* A file size limit stands for the full disk: the first write is short, the next one fails. */
Test(file, a_write_that_does_not_fit_leaves_the_old_file_and_no_temporary)
{
    static char big[10000];
    memset(big, 'b', sizeof big);
    cr_assert(eq(int, kd_file_replace("a", "old", 3), KD_OK));
    (void)signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit;
    cr_assert(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    const struct rlimit small = {4096, limit.rlim_max};
    cr_assert(setrlimit(RLIMIT_FSIZE, &small) == 0);
    const kd_status st = kd_file_replace("a", big, sizeof big);
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    cr_expect(eq(int, st, KD_ERR_IO));
    EXPECT_FAULT("a.tmp: File too large, at byte 4096");
    expect_holds("a", "old");
    cr_expect(not(kd_file_exists("a.tmp")));
}

Test(file, a_full_device_is_reported_with_its_path)
{
    char *data = (char *)1;
    size_t size;
    kd_writer writer;
    cr_assert(eq(int, kd_writer_open(&writer, "a", 0644), KD_OK));
    cr_assert(close(writer.fd) == 0);
    writer.fd = open("/dev/full", O_WRONLY); /* every write to it is ENOSPC */
    cr_assert(eq(int, kd_writer_add(&writer, "x", 1), KD_OK));
    cr_expect(eq(int, kd_writer_commit(&writer), KD_ERR_IO));
    EXPECT_FAULT("a.tmp: No space left on device");
    cr_expect(eq(int, kd_file_read("a", 1, &data, &size), KD_ERR_NOT_FOUND));
}

Test(file, a_writer_joins_pieces_small_and_large_and_patches)
{
    enum { BIG = 700000 };

    char *big = malloc(BIG), *data;
    size_t size;
    kd_writer writer;
    memset(big, 'x', BIG);
    cr_assert(eq(int, kd_writer_open(&writer, "pieces", 0644), KD_OK));
    cr_assert(eq(int, kd_writer_add(&writer, "head", 4), KD_OK));
    cr_assert(eq(int, kd_writer_add(&writer, big, BIG), KD_OK));
    for (int i = 0; i < 1000; i++) {
        cr_assert(eq(int, kd_writer_add(&writer, big, 999), KD_OK));
    }
    cr_assert(eq(int, kd_writer_add(&writer, "tail", 4), KD_OK));
    cr_assert(eq(int, kd_writer_patch(&writer, 1, "EA", 2), KD_OK));
    cr_assert(eq(int, kd_writer_add(&writer, "!", 1), KD_OK));
    cr_assert(eq(int, kd_writer_commit(&writer), KD_OK));

    cr_assert(eq(int, kd_file_read("pieces", 1 << 24, &data, &size), KD_OK));
    cr_expect(eq(sz, size, 4 + BIG + 999000 + 5));
    cr_expect(memcmp(data, "hEAdx", 5) == 0);
    cr_expect(strcmp(data + size - 6, "xtail!") == 0);
    free(data);
    free(big);
}

Test(file, an_abandoned_writer_leaves_no_trace)
{
    kd_writer writer;
    cr_assert(eq(int, kd_writer_open(&writer, "a", 0644), KD_OK));
    cr_assert(eq(int, kd_writer_add(&writer, "x", 1), KD_OK));
    kd_writer_abandon(&writer);
    kd_writer_abandon(&writer);
    cr_expect(not(kd_file_exists("a")));
    cr_expect(not(kd_file_exists("a.tmp")));
}

Test(file, folders_are_made_with_their_parents_and_twice)
{
    cr_assert(eq(int, kd_folder_make("x/y//z/"), KD_OK));
    cr_assert(eq(int, kd_folder_make("x/y/z"), KD_OK));
    cr_expect(kd_file_exists("x/y/z"));
    cr_expect(eq(int, kd_folder_sync("x/y/z"), KD_OK));
}

/* By a wrap of fsync(): what is synced is known by its path. */
static char synced[4096];

int __wrap_fsync(int fd);
int __real_fsync(int fd);

int __wrap_fsync(int fd)
{
    char link[64], target[1024] = "";
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    cr_assert(readlink(link, target, sizeof target - 1) > 0);
    strncat(synced, target, sizeof synced - strlen(synced) - 2);
    strcat(synced, "\n");
    return __real_fsync(fd);
}

/* Nobody's, where the test is root's: to root no folder is closed. */
static void be_no_root(bool is_so)
{
    const uid_t user = is_so ? 65534 : 0;
    uid_t now, effective, saved;
    cr_assert(getresuid(&now, &effective, &saved) == 0);
    cr_assert(saved != 0 || setresuid(user, user, 0) == 0);
}

Test(file, a_folder_is_made_where_one_may_write_and_not_read)
{
    cr_assert(mkdir("drop", 0700) == 0 && chmod(temporary_folder(), 0777) == 0);
    cr_assert(chmod("drop", 0333) == 0);
    be_no_root(true);
    const int closed = open("drop", O_RDONLY | O_DIRECTORY);
    const kd_status made = kd_folder_make("drop/a/b"), again = kd_folder_make("drop/a/b");
    be_no_root(false);
    cr_assert(chmod("drop", 0700) == 0);
    cr_assert(closed < 0, "the test's folder is open to all");
    cr_expect(eq(int, made, KD_OK), "%s", kd_fault_text());
    cr_expect(eq(int, again, KD_OK), "%s", kd_fault_text());
    cr_expect(access("drop/a/b", F_OK) == 0);
}

Test(file, a_new_folder_is_durable_in_what_holds_it)
{
    char expected[4096];
    const char *top = temporary_folder();
    synced[0] = '\0';
    cr_assert(eq(int, kd_folder_make("x/y//z/"), KD_OK));
    (void)snprintf(expected, sizeof expected, "%s\n%s/x\n%s/x/y\n", top, top, top);
    cr_expect(eq(str, synced, expected));
    cr_assert(eq(int, kd_folder_make(temporary_path("w//")), KD_OK));
    (void)snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s\n", top);
    cr_expect(eq(str, synced, expected));
    cr_assert(eq(int, kd_folder_make("x/y/z"), KD_OK));
    cr_expect(eq(str, synced, expected), "nothing was made");
}

Test(file, a_folder_cannot_be_made_where_a_file_is)
{
    cr_assert(eq(int, kd_file_replace("f", "", 0), KD_OK));
    cr_expect(eq(int, kd_folder_make("f"), KD_ERR_INVALID));
    EXPECT_FAULT("f");
    cr_expect(eq(int, kd_folder_make("f/below"), KD_ERR_INVALID));
    cr_expect(eq(int, kd_folder_make(""), KD_ERR_IO));
}

Test(file, syncing_a_missing_folder_fails)
{
    cr_expect(eq(int, kd_folder_sync("gone"), KD_ERR_IO));
    EXPECT_FAULT("gone");
}

/* What stays wrong however often it is tried, what may pass, and what is not there. */
Test(file, an_errno_says_whose_fault_it_is)
{
    const int of_path[] = {ENOTDIR, EISDIR, EEXIST, ELOOP, ENAMETOOLONG, EACCES};
    const int of_host[] = {EIO, ENOSPC, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT};
    for (size_t i = 0; i < sizeof of_path / sizeof *of_path; i++) {
        cr_expect(eq(int, kd_status_of_errno(of_path[i]), KD_ERR_INVALID));
        cr_expect(eq(int, kd_status_of_open_errno(of_path[i]), KD_ERR_INVALID));
    }
    for (size_t i = 0; i < sizeof of_host / sizeof *of_host; i++) {
        cr_expect(eq(int, kd_status_of_errno(of_host[i]), KD_ERR_IO));
        cr_expect(eq(int, kd_status_of_open_errno(of_host[i]), KD_ERR_IO));
    }
    cr_expect(eq(int, kd_status_of_errno(ENOENT), KD_ERR_IO));
    cr_expect(eq(int, kd_status_of_open_errno(ENOENT), KD_ERR_NOT_FOUND));
}

Test(file, removing_a_folder_takes_all_below_and_spares_what_links_point_to)
{
    cr_assert(eq(int, kd_folder_make("t/a/b"), KD_OK));
    cr_assert(eq(int, kd_folder_make("kept"), KD_OK));
    cr_assert(eq(int, kd_file_replace("kept/file", "k", 1), KD_OK));
    cr_assert(eq(int, kd_file_replace("t/a/b/file", "x", 1), KD_OK));
    cr_assert(symlink("../../kept", "t/a/link") == 0);
    cr_assert(symlink("nowhere", "t/broken") == 0);
    cr_assert(eq(int, kd_folder_remove("t"), KD_OK));
    cr_expect(not(kd_file_exists("t")));
    expect_holds("kept/file", "k");
    cr_expect(eq(int, kd_folder_remove("t"), KD_OK));
}

Test(file, removing_a_link_or_a_file_as_folder_is_refused)
{
    cr_assert(eq(int, kd_folder_make("kept"), KD_OK));
    cr_assert(symlink("kept", "link") == 0);
    cr_expect(eq(int, kd_folder_remove("link"), KD_ERR_INVALID));
    EXPECT_FAULT("link");
    cr_expect(kd_file_exists("kept"));
}

static void expect_join(const char *a, const char *b, const char *joined)
{
    char *path = kd_path_join(a, b);
    cr_expect(eq(str, path, (char *)joined));
    free(path);
}

Test(file, join_puts_one_slash)
{
    expect_join("a", "b", "a/b");
    expect_join("a/", "b", "a/b");
    expect_join("a//", "/b", "a/b");
    expect_join("/", "b", "/b");
    expect_join("", "b", "b");
}

Test(file, what_cannot_be_told_is_not_taken_for_absent)
{
    cr_assert(symlink("loop", "loop") == 0);
    cr_expect(kd_file_exists("loop"));
    cr_expect(not(kd_file_exists("gone/below")));
    temporary_write("plain", "text");
    cr_expect(not(kd_file_exists("plain/below")));
}
