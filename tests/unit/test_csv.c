#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "worker/csv.h"

static char path[] = "/tmp/kd-test-csv.XXXXXX";

static void make_path(void)
{
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    (void)close(fd);
}

static void remove_path(void)
{
    (void)unlink(path);
}

static void write_rows(uint64_t first_step, uint64_t end_step, const char *tail)
{
    csv table = {.fd = -1};
    cr_assert(eq(int, csv_open(&table, path, "step,loss", first_step), KD_OK));
    for (uint64_t step = first_step; step < end_step; step++) {
        char row[64];
        (void)snprintf(row, sizeof row, "%llu,%s", (unsigned long long)step, tail);
        cr_assert(eq(int, csv_add(&table, row), KD_OK));
    }
    csv_close(&table);
    csv_close(&table);
}

static void expect_text(const char *expected)
{
    char *text = NULL;
    size_t size = 0;
    cr_assert(eq(int, kd_file_read(path, 1 << 20, &text, &size), KD_OK));
    cr_expect(eq(str, text, (char *)expected));
    free(text);
}

TestSuite(csv, .init = make_path, .fini = remove_path);

Test(csv, rows_come_behind_the_header)
{
    write_rows(1, 3, "a");
    expect_text("step,loss\n1,a\n2,a\n");
}

Test(csv, a_resumed_attempt_drops_the_rows_it_writes_again)
{
    write_rows(1, 6, "old");
    write_rows(3, 5, "new");
    expect_text("step,loss\n1,old\n2,old\n3,new\n4,new\n");
}

Test(csv, a_row_that_was_cut_off_is_dropped)
{
    cr_assert(eq(int, kd_file_replace(path, "step,loss\n1,a\n2,", 16), KD_OK));
    write_rows(5, 6, "b");
    expect_text("step,loss\n1,a\n5,b\n");
}

Test(csv, another_header_starts_anew)
{
    cr_assert(eq(int, kd_file_replace(path, "step,other\n1,a\n", 15), KD_OK));
    write_rows(2, 3, "b");
    expect_text("step,loss\n2,b\n");
}

Test(csv, a_folder_that_is_not_there_is_an_error)
{
    csv table = {.fd = -1};
    cr_expect(ne(int, csv_open(&table, "/nowhere/metrics.csv", "step", 1), KD_OK));
    csv_close(&table);
}

Test(csv, rows_behind_a_path_that_cannot_be_followed_are_not_written_over)
{
    csv table = {.fd = -1};
    (void)unlink(path);
    cr_assert(symlink(path, path) == 0); /* what stands there cannot be told */
    cr_expect(ne(int, csv_open(&table, path, "step,loss", 3), KD_OK));
    char target[64];
    cr_expect(readlink(path, target, sizeof target) > 0, "the path was replaced");
    csv_close(&table);
}
