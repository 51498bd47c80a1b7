#include <criterion/criterion.h>
#include <criterion/new/assert.h>

#include "base/file.h"
#include "base/log.h"
#include "format/lineage.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
}

TestSuite(lineage, .init = enter, .fini = temporary_leave);

Test(lineage, reads_back_what_was_written)
{
    const kd_lineage written = {
        .tokenizer = "byte",
        .tokenizer_hash = UINT64_MAX,
        .has_split = true,
        .split = {.seed = UINT64_MAX - 1,
                  .held_out = 0.05,
                  .sequence_length = 128,
                  .train_hash = 3,
                  .test_hash = 4},
    };
    kd_lineage read;
    bool found = false;
    cr_assert(eq(int, kd_lineage_write("m", &written), KD_OK));
    cr_assert(eq(int, kd_lineage_read("m", &read, &found), KD_OK), "%s", kd_fault_text());
    cr_expect(found && read.has_split);
    cr_expect_str_eq(read.tokenizer, "byte");
    cr_expect(read.tokenizer_hash == UINT64_MAX);
    cr_expect(read.split.seed == UINT64_MAX - 1 && read.split.held_out == 0.05);
    cr_expect(read.split.sequence_length == 128);
    cr_expect(read.split.train_hash == 3 && read.split.test_hash == 4);
}

Test(lineage, of_a_model_that_was_not_trained_has_no_split)
{
    const kd_lineage written = {.tokenizer = "byte", .tokenizer_hash = 1};
    kd_lineage read;
    bool found = false;
    cr_assert(eq(int, kd_lineage_write("m", &written), KD_OK));
    cr_assert(eq(int, kd_lineage_read("m", &read, &found), KD_OK));
    cr_expect(found);
    cr_expect(not(read.has_split));
}

Test(lineage, a_folder_without_one_is_no_fault)
{
    kd_lineage read = {.tokenizer_hash = 7};
    bool found = true;
    cr_assert(eq(int, kd_lineage_read("m", &read, &found), KD_OK));
    cr_expect(not(found));
    cr_expect(read.tokenizer_hash == 7);
}

Test(lineage, names_the_field_that_is_wrong)
{
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"{", "m/distilld.json"},
        {"{}", "\"version\""},
        {"{\"version\": 2}", "\"version\""},
        {"{\"version\": 1}", "\"tokenizer.name\""},
        {"{\"version\": 1, \"tokenizer\": {\"name\": \"byte\", \"hash\": \"1\"}}", "\"hash\""},
        {"{\"version\": 1, \"tokenizer\": {\"name\": \"byte\", \"hash\": \"0123456789abcdef\"}, "
         "\"split\": {}}",
         "\"split.held_out\""},
        {"{\"version\": 1, \"tokenizer\": {\"name\": \"byte\", \"hash\": \"0123456789abcdef\"}, "
         "\"split\": {\"held_out\": 0.1, \"sequence_length\": 0}}",
         "\"split.sequence_length\""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kd_lineage read;
        bool found = false;
        temporary_write("m/distilld.json", cases[i].text);
        cr_expect(eq(int, kd_lineage_read("m", &read, &found), KD_ERR_PROTO));
        EXPECT_FAULT(cases[i].part);
        cr_expect(not(found));
    }
}
