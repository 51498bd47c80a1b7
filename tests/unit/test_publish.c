/* A file system that cannot exchange two names, and one that refuses a rename, by wraps of both calls. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "base/file.h"
#include "base/log.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "train/checkpoint_file.h"

static int renames_left = 100; /* the one that finds none fails, and those behind it do not */

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int __wrap_rename(const char *from, const char *to);
int __real_rename(const char *from, const char *to);

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    (void)from_fd, (void)from, (void)to_fd, (void)to, (void)flags;
    errno = EINVAL;
    return -1;
}

int __wrap_rename(const char *from, const char *to)
{
    if (renames_left-- == 0) {
        errno = EIO;
        return -1;
    }
    return __real_rename(from, to);
}

/* "old" is there as "m", and "new" waits to take its place. */
static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert_eq(kd_folder_make("m"), KD_OK);
    cr_assert_eq(kd_folder_make(".m.tmp"), KD_OK);
    temporary_write("m/old", "o");
    temporary_write(".m.tmp/new", "n");
}

TestSuite(publish, .init = enter, .fini = temporary_leave);

Test(publish, two_moves_replace_a_folder_where_one_cannot)
{
    cr_assert_eq(kd_folder_make(".m.tmp.old/of/a/crash"), KD_OK);
    cr_assert_eq(kd_folder_publish(".m.tmp", "m"), KD_OK);
    cr_expect(kd_file_exists("m/new"));
    cr_expect_not(kd_file_exists("m/old"));
    cr_expect_not(kd_file_exists(".m.tmp.old"));
    cr_expect_not(kd_file_exists(".m.tmp"));
}

/* The process died between the two moves, so that nothing has the name now. */
Test(publish, what_stepped_aside_before_a_crash_goes)
{
    cr_assert_eq(rename("m", ".m.tmp.old"), 0);
    cr_assert_eq(kd_folder_publish(".m.tmp", "m"), KD_OK);
    cr_expect(kd_file_exists("m/new"));
    cr_expect_not(kd_file_exists(".m.tmp.old"));
}

/* The first finds the name taken, the second moves the old folder aside, the third is the new one's. */
Test(publish, what_was_there_comes_back_when_the_new_one_cannot_take_its_place)
{
    for (int n = 1; n <= 2; n++) {
        renames_left = n;
        cr_expect_eq(kd_folder_publish(".m.tmp", "m"), KD_ERR_IO);
        EXPECT_FAULT("cannot rename");
        cr_expect(kd_file_exists("m/old"), "rename %d", n);
        cr_expect(kd_file_exists(".m.tmp/new"), "rename %d", n);
    }
}
