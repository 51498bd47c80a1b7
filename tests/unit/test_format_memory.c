/* What JSON costs. What is written lacks memory at each place in turn: that is not told as a fault of the names. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
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

/* A header of HEADER_BYTES: `front`, then as many `piece`s as fit, in which '#' becomes a count. */
static void expect_refused_unread(const char *front, const char *piece)
{
    static char text[HEADER_BYTES + 64];
    kd_safetensors *file = NULL;
    size_t n = (size_t)snprintf(text + 8, HEADER_BYTES, "%s", front);
    for (int i = 0; n < HEADER_BYTES - 32; i++) {
        const size_t before = strcspn(piece, "#");
        n += (size_t)(piece[before] == '#' ? snprintf(text + 8 + n, 32, "%.*s%d%s", (int)before,
                                                      piece, i, piece + before + 1)
                                           : snprintf(text + 8 + n, 32, "%s", piece));
    }
    for (int i = 0; i < 8; i++) {
        text[i] = (char)(n >> 8 * i);
    }
    n_left = 1 << 30;
    n_made = 0;
    json_set_alloc_funcs(allocate, free);
    cr_expect(eq(int, kd_safetensors_open_memory("x", text, 8 + n, &file), KD_ERR_PROTO));
    json_set_alloc_funcs(malloc, free);
    EXPECT_FAULT("more than any list of tensors");
    cr_expect(eq(int, n_made, 0), "%s: nothing is made of it", piece);
}

Test(format_memory, a_header_that_lists_no_tensors_is_refused_before_it_is_parsed)
{
    expect_refused_unread("{\"a\":{\"dtype\":\"F32\",\"shape\":[0", ",0");
    expect_refused_unread("{\"a\":0", ",\"#\":{}");
    expect_refused_unread("{\"a\":[[]", ",[]");
}

/* A header whose metadata is one string of such pieces: that is one value. */
Test(format_memory, what_stands_in_a_string_counts_for_nothing)
{
    char text[40000] = "", *at = text + 8;
    kd_safetensors *file = NULL;
    at += sprintf(at, "{\"__metadata__\":{\"a\":\"");
    for (int i = 0; i < 8000; i++) {
        at += sprintf(at, "[,\\\"");
    }
    at += sprintf(at, "\"}}");
    const size_t n = (size_t)(at - text - 8);
    for (int i = 0; i < 8; i++) {
        text[i] = (char)(n >> 8 * i);
    }
    cr_expect(eq(int, kd_safetensors_open_memory("x", text, 8 + n, &file), KD_OK), "%s",
              kd_fault_text());
    kd_safetensors_close(file);
}

/* The most values in the fewest bytes that tensors can have. */
Test(format_memory, the_densest_header_is_read)
{
    enum { N = 20000 };

    char *text = malloc(N * 100);
    kd_safetensors *file = NULL;
    size_t n = 8 + (size_t)snprintf(text + 8, 2, "{");
    for (int i = 0; i < N; i++) {
        n += (size_t)snprintf(text + n, 100,
                              "%s\"%d\":{\"dtype\":\"I8\",\"shape\":[0,0,0,0,0,0,0,0],"
                              "\"data_offsets\":[0,0]}",
                              i > 0 ? "," : "", i);
    }
    text[n++] = '}';
    for (int i = 0; i < 8; i++) {
        text[i] = (char)((n - 8) >> 8 * i);
    }
    cr_assert(eq(int, kd_safetensors_open_memory("x", text, n, &file), KD_OK), "%s",
              kd_fault_text());
    cr_expect(eq(sz, kd_safetensors_count(file), N));
    kd_safetensors_close(file);
    free(text);
}
