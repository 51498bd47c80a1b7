/* What is written as JSON lacks memory at each place in turn: that is not told as a fault of the names. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <jansson.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "format/manifest.h"
#include "format/safetensors.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

static int n_left; /* allocations until jansson's fail */

static void *allocate(size_t size)
{
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
