#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "format/manifest.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

/* A sealed folder "s" of two files. */
static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_folder_make("s/below"), KD_OK));
    temporary_write("s/a.bin", "abc");
    temporary_write("s/empty", "");
    temporary_write("s/left.tmp", "of a crash");
    cr_assert(eq(int, kd_manifest_write("s"), KD_OK), "%s", kd_fault_text());
}

TestSuite(manifest, .init = enter, .fini = temporary_leave);

static void expect_verdict(kd_status st, const char *part)
{
    cr_expect(eq(int, kd_manifest_verify("s"), st), "%s", kd_fault_text());
    EXPECT_FAULT(part);
}

Test(manifest, lists_the_files_with_size_and_hash)
{
    char *text;
    size_t size;
    cr_assert(eq(int, kd_file_read("s/manifest.json", 1 << 16, &text, &size), KD_OK));
    /* XXH3-64 of "abc" and of nothing, as xxhsum -H3 prints them. */
    cr_expect(
        strstr(text, "\"a.bin\": {\n      \"size\": 3,\n      \"xxh3\": \"78af5f94892f3950\"") !=
            NULL,
        "%s", text);
    cr_expect(strstr(text, "\"xxh3\": \"2d06800538d394c2\"") != NULL, "%s", text);
    cr_expect(strstr(text, "tmp") == NULL);
    cr_expect(strstr(text, "below") == NULL);
    cr_expect(strstr(text, "manifest") == NULL);
    free(text);
}

Test(manifest, an_unharmed_folder_verifies_and_can_be_sealed_again)
{
    expect_verdict(KD_OK, "");
    temporary_write("s/more", "x");
    expect_verdict(KD_OK, "");
    cr_assert(eq(int, kd_manifest_write("s"), KD_OK));
    temporary_write("s/more", "y");
    expect_verdict(KD_ERR_INVALID, "s/more has the hash");
}

Test(manifest, a_flipped_bit_is_found)
{
    temporary_write("s/a.bin", "abb");
    expect_verdict(KD_ERR_INVALID, "s/a.bin has the hash");
}

Test(manifest, another_length_is_found)
{
    temporary_write("s/a.bin", "abcd");
    expect_verdict(KD_ERR_INVALID, "s/a.bin is 4 bytes long, expected 3");
}

Test(manifest, a_missing_file_is_found)
{
    cr_assert(unlink("s/a.bin") == 0);
    expect_verdict(KD_ERR_INVALID, "s/a.bin is missing, expected 3 bytes");
}

Test(manifest, a_folder_without_one_is_not_found)
{
    cr_assert(unlink("s/manifest.json") == 0);
    expect_verdict(KD_ERR_NOT_FOUND, "s/manifest.json");
    cr_expect(eq(int, kd_manifest_write("none"), KD_ERR_IO));
}

Test(manifest, one_that_does_not_parse_is_refused)
{
    const struct {
        const char *text, *part;
    } cases[] = {
        {"", "not valid JSON"},
        {"{\"version\": 1, \"files\": {", "not valid JSON"},
        {"[1]", "expected an object with \"version\" 1"},
        {"{\"version\": 2, \"files\": {}}", "\"version\" 1"},
        {"{\"version\": 1}", "an object \"files\""},
        {"{\"version\": 1, \"files\": {\"../x\": {}}}", "\"../x\" is not the name of a file"},
        {"{\"version\": 1, \"files\": {\"d/x\": {}}}", "\"d/x\" is not the name of a file"},
        {"{\"version\": 1, \"files\": {\"a\": {\"size\": -1, \"xxh3\": \"78af5f94892f3950\"}}}",
         "expected an integer in \"size\""},
        {"{\"version\": 1, \"files\": {\"a\": {\"size\": 3, \"xxh3\": \"78af\"}}}",
         "16 hexadecimal digits"},
        {"{\"version\": 1, \"files\": {\"a\": 3}}", "expected an integer in \"size\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        temporary_write("s/manifest.json", cases[i].text);
        expect_verdict(KD_ERR_PROTO, cases[i].part);
    }
}

Test(manifest, a_file_that_cannot_be_looked_at_is_not_sealed_without)
{
    cr_assert(symlink("nowhere", "s/gone") == 0);
    cr_expect(eq(int, kd_manifest_write("s"), KD_OK), "a link to nothing is no file");
    cr_assert(symlink("loop", "s/loop") == 0);
    cr_expect(eq(int, kd_manifest_write("s"), KD_ERR_INVALID));
    EXPECT_FAULT("cannot stat s/loop");
}

Test(manifest, files_that_a_reader_needs_must_be_listed)
{
    const char *const listed[] = {"a.bin", "empty", NULL}, *const unlisted[] = {"a.bin", "b", NULL};
    cr_expect(eq(int, kd_manifest_lists("s", listed), KD_OK));
    cr_expect(eq(int, kd_manifest_verify_files("s", listed), KD_OK));
    cr_expect(eq(int, kd_manifest_lists("s", unlisted), KD_ERR_INVALID));
    EXPECT_FAULT("s/manifest.json does not list b");
    cr_expect(eq(int, kd_manifest_verify_files("s", unlisted), KD_ERR_INVALID));

    temporary_write("s/a.bin", "abb");
    cr_expect(eq(int, kd_manifest_lists("s", listed), KD_OK), "contents are not read");
    cr_expect(eq(int, kd_manifest_verify_files("s", listed), KD_ERR_INVALID));
    EXPECT_FAULT("s/a.bin has the hash");
    cr_expect(eq(int, kd_manifest_verify_files("s", &listed[1]), KD_OK), "others are not read");
}

static void expect_cover(kd_status st, const char *part)
{
    cr_expect(eq(int, kd_manifest_covers("s"), st), "%s", kd_fault_text());
    EXPECT_FAULT(part);
}

Test(manifest, a_folder_is_replaced_only_where_all_in_it_is_listed)
{
    expect_cover(KD_ERR_INVALID, "s is not replaced: it holds \"");
    cr_assert(unlink("s/left.tmp") == 0);
    expect_cover(KD_ERR_INVALID, "it holds \"below\"");
    cr_assert(rmdir("s/below") == 0);
    expect_cover(KD_OK, "");
    temporary_write("s/a.bin", "damaged");
    expect_cover(KD_OK, "");
    temporary_write("s/.hidden", "x");
    expect_cover(KD_ERR_INVALID, "it holds \".hidden\"");
    cr_assert(unlink("s/.hidden") == 0 && unlink("s/manifest.json") == 0);
    expect_cover(KD_ERR_INVALID, "which no manifest.json there lists");
    cr_assert(unlink("s/a.bin") == 0 && unlink("s/empty") == 0);
    expect_cover(KD_OK, "");
    cr_expect(eq(int, kd_manifest_covers("none"), KD_OK));
}
