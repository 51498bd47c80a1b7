#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "data/tokenizer.h"
#include "tests/support/fault.h"

static kd_tokenizer *byte;

static void enter(void)
{
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_tokenizer_create(KD_TOKENIZER_BYTE, &byte), KD_OK));
}

static void leave(void)
{
    kd_tokenizer_destroy(byte);
}

TestSuite(tokenizer, .init = enter, .fini = leave);

Test(tokenizer, byte_has_256_tokens_and_ends_documents_with_0)
{
    cr_expect(eq(str, (char *)byte->name, "byte"));
    cr_expect(eq(u32, byte->vocab_size, 256));
    cr_expect(eq(u32, byte->end_token, 0));
}

Test(tokenizer, every_byte_but_nul_is_a_token)
{
    char all[255];
    for (int i = 0; i < 255; i++) {
        all[i] = (char)(i + 1);
    }
    const kd_text_piece piece = {.bytes = all, .size = sizeof all, .origin = "all"};
    kd_tokens tokens = {0};
    size_t used = 0;
    cr_assert(eq(int, kd_tokenizer_encode(byte, &piece, &tokens, &used), KD_OK));
    cr_assert(eq(int, kd_tokenizer_encode(byte, &piece, &tokens, &used), KD_OK));
    cr_expect(eq(sz, used, 255));
    cr_assert(eq(sz, tokens.n, 510));
    for (uint32_t i = 0; i < 510; i++) {
        cr_assert(eq(u32, tokens.ids[i], i % 255 + 1));
    }
    kd_tokens_release(&tokens);
}

Test(tokenizer, an_empty_piece_gives_no_token)
{
    const kd_text_piece piece = {.bytes = NULL, .size = 0, .is_last = true, .origin = "e"};
    kd_tokens tokens = {0};
    size_t used = 7;
    cr_assert(eq(int, kd_tokenizer_encode(byte, &piece, &tokens, &used), KD_OK));
    cr_expect(tokens.n == 0 && used == 0);
    kd_tokens_release(&tokens);
}

Test(tokenizer, a_nul_in_the_text_names_file_and_offset_and_adds_nothing)
{
    const kd_text_piece piece = {.bytes = "ab\0c", .size = 4, .origin = "book.txt", .offset = 1000};
    kd_tokens tokens = {0};
    size_t used = 7;
    cr_expect(eq(int, kd_tokenizer_encode(byte, &piece, &tokens, &used), KD_ERR_INVALID));
    EXPECT_FAULT("book.txt: byte 1002 is NUL");
    cr_expect(tokens.n == 0 && used == 7);
    kd_tokens_release(&tokens);
}

Test(tokenizer, an_unknown_kind_is_refused)
{
    kd_tokenizer *none = NULL;
    cr_expect(eq(int, kd_tokenizer_create(KD_TOKENIZER_KINDS, &none), KD_ERR_ARG));
    cr_expect(none == NULL);
    kd_tokenizer_destroy(none);
}

Test(tokenizer, tokens_beyond_all_memory_are_refused)
{
    kd_tokens tokens = {0};
    cr_expect(eq(int, kd_tokens_reserve(&tokens, SIZE_MAX), KD_ERR_NOMEM));
    cr_expect(tokens.ids == NULL);
}

/* The letters that ByteLevel writes: a space is U+0120, byte 0 is U+0100, é is bytes C3 A9. */
Test(tokenizer, the_exported_vocabulary_gives_each_byte_its_own_number)
{
    char folder[] = "/tmp/kd-tokenizer-XXXXXX";
    cr_assert(mkdtemp(folder) != NULL);
    cr_assert(eq(int, kd_tokenizer_export(byte, folder), KD_OK));
    char *path = kd_path_join(folder, "tokenizer.json");
    char *json = NULL;
    size_t size = 0;
    cr_assert(eq(int, kd_file_read(path, 1 << 20, &json, &size), KD_OK));

    const char *const entries[] = {"\"\u0100\":0", "\"\u0120\":32",  "\"\\\"\":34",   "\"A\":65",
                                   "\"\\\\\":92",  "\"\u0143\":173", "\"\u00ff\":255"};
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        cr_expect(strstr(json, entries[i]) != NULL, "no entry %s", entries[i]);
    }
    for (int id = 0; id < 256; id++) {
        char number[16];
        (void)snprintf(number, sizeof number, "\":%d%c", id, id == 255 ? '}' : ',');
        cr_expect(strstr(json, number) != NULL, "no letter has the number %d", id);
    }
    free(json);
    free(path);
    cr_expect(eq(int, kd_folder_remove(folder), KD_OK));
}

Test(tokenizer, an_export_into_no_folder_names_it)
{
    cr_expect(eq(int, kd_tokenizer_export(byte, "/nowhere/at/all"), KD_ERR_IO));
    EXPECT_FAULT("/nowhere/at/all");
}
