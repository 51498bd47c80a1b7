#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "train/vocabulary.h"

static kd_tokenizer *byte;

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_assert(eq(int, kd_tokenizer_create(KD_TOKENIZER_BYTE, &byte), KD_OK));
}

static void leave(void)
{
    kd_tokenizer_destroy(byte);
    temporary_leave();
}

TestSuite(vocabulary, .init = enter, .fini = leave);

static void write_config(const char *vocab_size)
{
    kd_text text = {0};
    kd_text_printf(&text,
                   "{\"model_type\": \"llama\", \"vocab_size\": %s, \"hidden_size\": 8, "
                   "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
                   "\"intermediate_size\": 8, \"rms_norm_eps\": 1e-6}",
                   vocab_size);
    temporary_write("m/config.json", text.data);
    kd_text_release(&text);
}

static void write_lineage(const char *name, uint64_t hash, const kd_lineage_split *split)
{
    kd_lineage lineage = {.tokenizer_hash = hash, .has_split = split != NULL};
    (void)snprintf(lineage.tokenizer, sizeof lineage.tokenizer, "%s", name);
    if (split != NULL) {
        lineage.split = *split;
    }
    cr_assert(eq(int, kd_lineage_write("m", &lineage), KD_OK));
}

Test(vocabulary, a_folder_that_names_the_tokenizer_is_understood)
{
    write_lineage(byte->name, byte->hash, NULL);
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_OK), "%s", kd_fault_text());
}

Test(vocabulary, another_tokenizer_is_refused_by_name)
{
    write_lineage("words", byte->hash, NULL);
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    EXPECT_FAULT("found tokenizer \"words\"");
    write_lineage(byte->name, byte->hash + 1, NULL);
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    EXPECT_FAULT("expected \"byte\"");
}

Test(vocabulary, the_exported_files_of_the_tokenizer_are_recognised)
{
    cr_assert(eq(int, kd_tokenizer_export(byte, "m"), KD_OK));
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_OK), "%s", kd_fault_text());
}

Test(vocabulary, a_tokenizer_file_that_is_not_understood_is_refused)
{
    temporary_write("m/tokenizer.json",
                    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, "
                    "\"ab\": 2}, \"merges\": [\"a b\"]}}");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    EXPECT_FAULT("m/tokenizer.json: found a tokenizer of type BPE with 3 entries and 1 merges");
}

Test(vocabulary, a_size_alone_is_believed_within_the_padding)
{
    write_config("256");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_OK), "%s", kd_fault_text());
    write_config("511");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_OK), "%s", kd_fault_text());
    write_config("512");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    EXPECT_FAULT("found a vocabulary of 512 tokens");
    write_config("255");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    write_config("49152");
    cr_expect(eq(int, kd_vocabulary_check("m", byte), KD_ERR_INVALID));
    EXPECT_FAULT("expected 256 to 511 for \"byte\"");
}

Test(vocabulary, another_split_is_told_and_the_same_is_not)
{
    const kd_lineage_split split = {
        .seed = 1, .held_out = 0.1, .sequence_length = 64, .train_hash = 2, .test_hash = 3};
    kd_lineage_split other = split;
    cr_expect(not(kd_vocabulary_warn_of_split("teacher", "m", &split)));
    write_lineage(byte->name, byte->hash, &split);
    cr_expect(not(kd_vocabulary_warn_of_split("teacher", "m", &split)));
    other.test_hash = 4;
    cr_expect(kd_vocabulary_warn_of_split("teacher", "m", &other));
    other.test_hash = 0; /* nothing is held out */
    cr_expect(not(kd_vocabulary_warn_of_split("teacher", "m", &other)));
}
