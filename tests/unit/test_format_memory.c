/* What JSON costs. What is written lacks memory at each place in turn: that is not told as a fault of the names. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "base/text.h"
#include "format/manifest.h"
#include "format/safetensors.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

enum { HEADER_BYTES = 1 << 20 };

static int n_left; /* allocations until jansson's fail */
static int n_made; /* so far */

static void *allocate(size_t size)
{
    n_made++;
    return n_left-- > 0 ? malloc(size) : NULL;
}

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    cr_assert(eq(int, kd_folder_make("s"), KD_OK));
    temporary_write("s/a", "abc");
    temporary_write("s/b", "");
}

TestSuite(format_memory, .init = enter, .fini = temporary_leave);

/* Every status with 0, 1, 2, ... allocations, until there are enough. */
static void expect_no_memory(kd_status (*call)(void))
{
    kd_status st = KD_ERR_NOMEM;
    int n = 0;
    for (; st && n < 1000; n++) {
        n_left = n;
        json_set_alloc_funcs(allocate, free);
        st = call();
        json_set_alloc_funcs(malloc, free);
        cr_expect(st == KD_OK || st == KD_ERR_NOMEM, "%d allocations: %s", n, kd_fault_text());
    }
    cr_expect(eq(int, st, KD_OK));
    cr_expect(n > 3, "it allocates");
}

static kd_status write_manifest(void)
{
    return kd_manifest_write("s");
}

static kd_status write_header(void)
{
    const kd_safetensors_spec specs[] = {{"a", KD_SAFETENSORS_F32, 2, {1, 0}},
                                         {"b", KD_SAFETENSORS_BF16, 1, {0}}};
    kd_safetensors_writer *writer = NULL;
    kd_safetensors *file = NULL;
    kd_status st = kd_safetensors_create("x", specs, 2, &writer);
    if (!st) {
        st = kd_safetensors_commit(writer);
    }
    if (!st) { /* what came out is whole */
        n_left = 1000;
        cr_assert(eq(int, kd_safetensors_open("x", &file), KD_OK), "%s", kd_fault_text());
        cr_expect(eq(int, kd_safetensors_find(file, "a")->n_dims, 2));
        kd_safetensors_close(file);
    }
    return st;
}

Test(format_memory, a_manifest_without_memory_is_told_as_such)
{
    expect_no_memory(write_manifest);
    cr_expect(eq(int, kd_manifest_verify("s"), KD_OK));
}

Test(format_memory, a_safetensors_header_without_memory_is_told_as_such)
{
    expect_no_memory(write_header);
}

Test(format_memory, names_that_are_no_text_are_told_as_such)
{
    kd_safetensors_writer *writer = NULL;
    const kd_safetensors_spec bad = {"a\xff", KD_SAFETENSORS_F32, 0, {0}};
    const kd_safetensors_spec twice[] = {{"a", KD_SAFETENSORS_F32, 0, {0}},
                                         {"a", KD_SAFETENSORS_F32, 0, {0}}};
    cr_expect(eq(int, kd_safetensors_create("x", &bad, 1, &writer), KD_ERR_ARG));
    cr_expect(eq(int, kd_safetensors_create("x", twice, 2, &writer), KD_ERR_ARG));
    EXPECT_FAULT("names must be unique UTF-8");
    temporary_write("s/\xff", "x");
    cr_expect(eq(int, kd_manifest_write("s"), KD_ERR_ARG));
    EXPECT_FAULT("its name is not UTF-8");
}

/* Opens a file that is this header and nothing else; the file is closed again. */
static kd_status open_header(const kd_text *header, size_t *count_out)
{
    kd_text file_text = {0};
    kd_safetensors *file = NULL;
    uint8_t length[8];
    for (size_t i = 0; i < sizeof length; i++) {
        length[i] = (uint8_t)(header->size >> 8 * i);
    }
    kd_text_add_bytes(&file_text, length, sizeof length);
    kd_text_add_bytes(&file_text, header->data, header->size);
    cr_assert(not(file_text.failed));
    const kd_status st = kd_safetensors_open_memory("x", file_text.data, file_text.size, &file);
    if (!st) {
        *count_out = kd_safetensors_count(file);
        kd_safetensors_close(file);
    }
    kd_text_release(&file_text);
    return st;
}

/* `front`, then many pieces: the words before and after a number that counts them. */
static void expect_refused_unread(const char *front, const char *before, const char *after)
{
    kd_text header = {0};
    size_t n;
    kd_text_add(&header, front);
    for (int i = 0; header.size < HEADER_BYTES; i++) {
        kd_text_printf(&header, "%s%d%s", before, i % 10, after);
    }
    n_left = 1 << 30;
    n_made = 0;
    json_set_alloc_funcs(allocate, free);
    cr_expect(eq(int, open_header(&header, &n), KD_ERR_PROTO));
    json_set_alloc_funcs(malloc, free);
    EXPECT_FAULT("more than any list of tensors");
    cr_expect(eq(int, n_made, 0), "%s: nothing is made of it", front);
    kd_text_release(&header);
}

Test(format_memory, a_header_that_lists_no_tensors_is_refused_before_it_is_parsed)
{
    expect_refused_unread("{\"a\":{\"dtype\":\"F32\",\"shape\":[0", ",", "");
    expect_refused_unread("{\"a\":0", ",\"", "\":{}");
    expect_refused_unread("{\"a\":[[]", ",[", "]");
    expect_refused_unread("{\"a\":0", ",\"a name of some length ", "\":0");
}

/* A header whose metadata is one string of such pieces: that is one value. */
Test(format_memory, what_stands_in_a_string_counts_for_nothing)
{
    kd_text header = {0};
    size_t n = 7;
    kd_text_add(&header, "{\"__metadata__\":{\"a\":\"");
    for (int i = 0; i < 8000; i++) {
        kd_text_add(&header, "[,\\\"");
    }
    kd_text_add(&header, "\"}}");
    cr_expect(eq(int, open_header(&header, &n), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(sz, n, 0));
    kd_text_release(&header);
}

/* The most values in the fewest bytes that tensors can have, and a note on each. */
Test(format_memory, the_densest_header_is_read)
{
    enum { N = 20000 };

    kd_text header = {0};
    size_t n = 0;
    kd_text_add(&header, "{\"__metadata__\":{\"0\":\"\"");
    for (int i = 1; i < N; i++) {
        kd_text_printf(&header, ",\"%d\":\"\"", i);
    }
    for (int i = 0; i < N; i++) {
        kd_text_printf(&header,
                       "%s\"%d\":{\"dtype\":\"I8\",\"shape\":[0,0,0,0,0,0,0,0],"
                       "\"data_offsets\":[0,0]}",
                       i > 0 ? "," : "},", i);
    }
    kd_text_add(&header, "}");
    cr_assert(eq(int, open_header(&header, &n), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(sz, n, N));
    kd_text_release(&header);
}
