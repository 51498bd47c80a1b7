#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <string.h>

#include "base/text.h"

static const char *const fields[] = {"learning_rate", "weight_decay", "steps", "seed", "beta1"};

enum { N_FIELDS = sizeof fields / sizeof *fields };

Test(text, grows_and_stays_terminated)
{
    kd_text text = {0};
    for (int i = 0; i < 1000; i++) {
        kd_text_add(&text, "ab");
        kd_text_printf(&text, "%03d", i);
    }
    cr_assert(not(text.failed));
    cr_expect(eq(sz, text.size, 5000));
    cr_expect(eq(sz, strlen(text.data), 5000));
    cr_expect(strcmp(text.data + 4995, "ab999") == 0);
    kd_text_release(&text);
    cr_expect(text.data == NULL && text.size == 0 && text.capacity == 0);
}

Test(text, holds_bytes_with_nul_and_the_empty_string)
{
    kd_text text = {0};
    kd_text_add(&text, "");
    cr_assert(text.data != NULL);
    cr_expect(eq(str, text.data, ""));
    kd_text_add_bytes(&text, "a\0b", 3);
    cr_expect(eq(sz, text.size, 3));
    cr_expect(memcmp(text.data, "a\0b", 4) == 0);
    kd_text_release(&text);
}

Test(text, clear_keeps_the_memory)
{
    kd_text text = {0};
    kd_text_add(&text, "something");
    const size_t capacity = text.capacity;
    kd_text_clear(&text);
    cr_expect(eq(sz, text.size, 0));
    cr_expect(eq(sz, text.capacity, capacity));
    cr_expect(eq(str, text.data, ""));
    kd_text_release(&text);
}

Test(text, an_append_without_memory_fails_and_changes_nothing)
{
    kd_text text = {0};
    kd_text_add(&text, "kept");
    kd_text_add_bytes(&text, "", (size_t)-1);
    cr_expect(text.failed);
    kd_text_add(&text, "ignored");
    cr_expect(eq(str, text.data, "kept"));
    kd_text_release(&text);
}

Test(text, nearest_finds_a_misspelt_word)
{
    cr_expect(eq(str, (char *)kd_text_nearest("learnig_rate", fields, N_FIELDS), "learning_rate"));
    cr_expect(eq(str, (char *)kd_text_nearest("setps", fields, N_FIELDS), "steps"));
    cr_expect(eq(str, (char *)kd_text_nearest("sed", fields, N_FIELDS), "seed"));
    cr_expect(eq(str, (char *)kd_text_nearest("beta2", fields, N_FIELDS), "beta1"));
}

Test(text, nearest_counts_a_swap_of_neighbours_as_one)
{
    const char *const candidates[] = {"abd", "acb"};
    cr_expect(eq(str, (char *)kd_text_nearest("abc", candidates, 1), "abd"));
    cr_expect(eq(str, (char *)kd_text_nearest("abc", candidates + 1, 1), "acb"));
}

Test(text, nearest_gives_up_on_a_word_far_from_all)
{
    cr_expect(kd_text_nearest("temperature", fields, N_FIELDS) == NULL);
    cr_expect(kd_text_nearest("", fields, N_FIELDS) == NULL);
    cr_expect(kd_text_nearest("steps", NULL, 0) == NULL);
}

Test(text, nearest_refuses_words_of_any_length_in_bounded_memory)
{
    char word[1000];
    memset(word, 's', sizeof word - 1);
    word[sizeof word - 1] = '\0';
    const char *const candidates[] = {word};
    cr_expect(kd_text_nearest(word, fields, N_FIELDS) == NULL);
    cr_expect(kd_text_nearest("steps", candidates, 1) == NULL);
}
