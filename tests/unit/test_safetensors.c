#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "format/safetensors.h"
#include "tensor/half.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
}

TestSuite(safetensors, .init = enter, .fini = temporary_leave);

/* Writes a file "x": the given header length, header and number of data bytes (0, 1, 2, ...). */
static void put(uint64_t length, const char *header, size_t n_data)
{
    uint8_t bytes[4096];
    const size_t n_header = strlen(header);

    cr_assert(8 + n_header + n_data <= sizeof bytes);
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(length >> 8 * i);
    }
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++) {
        bytes[8 + n_header + i] = (uint8_t)i;
    }
    cr_assert(eq(int, kd_file_replace("x", bytes, 8 + n_header + n_data), KD_OK));
}

/* The file "x" is refused with `st`, a message that begins with its name and has these parts. */
static void expect_refused(kd_status st, const char *part, const char *other)
{
    static char elsewhere;
    kd_safetensors *const untouched = (kd_safetensors *)&elsewhere;
    kd_safetensors *file = untouched;
    cr_expect(eq(int, kd_safetensors_open("x", &file), st), "%s", kd_fault_text());
    cr_expect(file == untouched);
    cr_expect(strncmp(kd_fault_text(), "x: ", 3) == 0, "%s", kd_fault_text());
    EXPECT_FAULT(part);
    EXPECT_FAULT(other);
}

static void expect_header_refused(const char *header,
                                  size_t n_data,
                                  kd_status st,
                                  const char *part,
                                  const char *other)
{
    put(strlen(header), header, n_data);
    expect_refused(st, part, other);
}

static const kd_safetensors_spec specs[] = {
    {.name = "b.weight", .dtype = KD_SAFETENSORS_F32, .n_dims = 2, .dims = {2, 3}},
    {.name = "empty", .dtype = KD_SAFETENSORS_F32, .n_dims = 2, .dims = {0, 3}},
    {.name = "a \"quoted\" name", .dtype = KD_SAFETENSORS_BF16, .n_dims = 1, .dims = {3}},
    {.name = "scalar", .dtype = KD_SAFETENSORS_F32, .n_dims = 0},
};
static const float values[] = {1.5f, -0.0f, 3e-42f, 4.0f, INFINITY, -6.25f, /* b.weight */
                               0.5f, -2.0f, 128.0f,                         /* a */
                               7.0f};

static void write_specs(const char *path)
{
    kd_safetensors_writer *writer;
    cr_assert(eq(int, kd_safetensors_create(path, specs, 4, &writer), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values, 2), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values + 2, 4), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values + 6, 3), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values + 9, 1), KD_OK));
    cr_assert(eq(int, kd_safetensors_commit(writer), KD_OK));
}

static void
expect_values(const kd_safetensors *file, const char *name, const float *expected, int n)
{
    float out[8] = {0};
    const kd_safetensors_entry *entry = kd_safetensors_find(file, name);
    cr_assert(entry != NULL, "%s", name);
    cr_assert(eq(i64, entry->n_elements, n));
    cr_assert(eq(int, kd_safetensors_read_f32(entry, 0, n, out), KD_OK));
    cr_expect(memcmp(out, expected, (size_t)n * sizeof *out) == 0, "%s", name);
}

Test(safetensors, what_was_written_reads_back_bit_for_bit)
{
    kd_safetensors *file;
    float part[2];

    write_specs("x");
    cr_assert(eq(int, kd_safetensors_open("x", &file), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(sz, kd_safetensors_count(file), 4));
    expect_values(file, "b.weight", values, 6);
    expect_values(file, "a \"quoted\" name", values + 6, 3);
    expect_values(file, "scalar", values + 9, 1);
    expect_values(file, "empty", values, 0);
    cr_expect(kd_safetensors_find(file, "c") == NULL);
    cr_expect(eq(str, (char *)kd_safetensors_at(file, 0)->name, "a \"quoted\" name"));

    const kd_safetensors_entry *entry = kd_safetensors_find(file, "b.weight");
    cr_expect(eq(int, entry->n_dims, 2));
    cr_expect(eq(i64, entry->dims[0], 2));
    cr_expect(eq(i64, entry->dims[1], 3));
    cr_expect(eq(int, (int)entry->dtype, KD_SAFETENSORS_F32));
    cr_assert(eq(int, kd_safetensors_read_f32(entry, 3, 2, part), KD_OK));
    cr_expect(memcmp(part, values + 3, sizeof part) == 0);
    kd_safetensors_close(file);
}

Test(safetensors, same_declarations_and_values_give_the_same_aligned_bytes)
{
    char *a, *b;
    size_t n_a, n_b;

    write_specs("x");
    write_specs("y");
    cr_assert(eq(int, kd_file_read("x", 1 << 20, &a, &n_a), KD_OK));
    cr_assert(eq(int, kd_file_read("y", 1 << 20, &b, &n_b), KD_OK));
    cr_assert(eq(sz, n_a, n_b));
    cr_expect(memcmp(a, b, n_a) == 0);
    uint64_t length;
    memcpy(&length, a, sizeof length);
    cr_expect(eq(u64, length % 8, 0));
    cr_expect(eq(u64, 8 + length + 6 * 4 + 3 * 2 + 4, n_a));
    cr_expect(strncmp(a + 8, "{\"__metadata__\":{\"format\":\"pt\"},\"b.weight\":", 42) == 0);
    free(a);
    free(b);
}

Test(safetensors, an_abandoned_writer_leaves_the_file_as_it_was)
{
    kd_safetensors_writer *writer;
    cr_assert(eq(int, kd_file_replace("x", "old", 3), KD_OK));
    cr_assert(eq(int, kd_safetensors_create("x", specs, 4, &writer), KD_OK));
    cr_assert(eq(int, kd_safetensors_write_f32(writer, values, 5), KD_OK));
    kd_safetensors_abandon(writer);
    kd_safetensors_abandon(NULL);
    char *data;
    size_t size;
    cr_assert(eq(int, kd_file_read("x", 64, &data, &size), KD_OK));
    cr_expect(eq(str, data, "old"));
    cr_expect(not(kd_file_exists("x.tmp")));
    free(data);
}

/* Of two tensors (2, 3) and (3): which value is bad, in which dtype, and what is said of it. */
static const struct {
    kd_safetensors_dtype dtype;
    int at;
    uint32_t bits;
    const char *text;
} bad_weights[] = {
    {KD_SAFETENSORS_F32, 0, 0x7fc00000, "element 0 of tensor \"first\" is not a number in F32"},
    {KD_SAFETENSORS_F32, 5, 0xff800000, "element 5 of tensor \"first\" is infinite in F32"},
    {KD_SAFETENSORS_BF16, 7, 0xffffffff, "element 1 of tensor \"second\" is not a number in BF16"},
    {KD_SAFETENSORS_BF16, 8, 0x7f7f8000, "element 2 of tensor \"second\" is infinite in BF16"},
};

static kd_status write_weights(kd_safetensors_dtype dtype, const float *weights)
{
    const kd_safetensors_spec two[] = {
        {.name = "first", .dtype = dtype, .n_dims = 2, .dims = {2, 3}},
        {.name = "second", .dtype = dtype, .n_dims = 1, .dims = {3}},
    };
    kd_safetensors_writer *writer;
    cr_assert(eq(int, kd_safetensors_create("x", two, 2, &writer), KD_OK));
    kd_status st = kd_safetensors_write_weights(writer, weights, 4);
    if (!st) {
        st = kd_safetensors_write_weights(writer, weights + 4, 2);
    }
    if (!st) {
        st = kd_safetensors_write_weights(writer, weights + 6, 3);
    }
    if (st) {
        kd_safetensors_abandon(writer);
        return st;
    }
    return kd_safetensors_commit(writer);
}

Test(safetensors, weights_that_the_file_would_not_hold_as_numbers_are_refused_by_name)
{
    const float largest[] = {(kd_float_bits){.bits = 0x7f7fffff}.value,  /* of F32 */
                             (kd_float_bits){.bits = 0xff7f7fff}.value}; /* that BF16 holds */
    for (size_t i = 0; i < sizeof bad_weights / sizeof *bad_weights; i++) {
        float weights[9] = {largest[bad_weights[i].dtype == KD_SAFETENSORS_BF16], -0.0f, 1e-42f};
        cr_expect(eq(int, write_weights(bad_weights[i].dtype, weights), KD_OK), "case %zu", i);
        cr_assert(unlink("x") == 0);
        weights[bad_weights[i].at] = (kd_float_bits){.bits = bad_weights[i].bits}.value;
        kd_fault_quiet(1);
        cr_expect(eq(int, write_weights(bad_weights[i].dtype, weights), KD_ERR_INVALID));
        EXPECT_FAULT("x: ");
        EXPECT_FAULT(bad_weights[i].text);
        cr_expect(not(kd_file_exists("x")));
        kd_fault_quiet(0);
    }
}

Test(safetensors, names_that_clash_or_are_not_utf8_are_refused)
{
    kd_safetensors_writer *writer = NULL;
    kd_safetensors_spec bad[2] = {specs[0], specs[0]};
    cr_expect(eq(int, kd_safetensors_create("x", bad, 2, &writer), KD_ERR_ARG));
    bad[0].name = "\xff";
    cr_expect(eq(int, kd_safetensors_create("x", bad, 2, &writer), KD_ERR_ARG));
    cr_expect(writer == NULL);
    cr_expect(not(kd_file_exists("x.tmp")));
}

Test(safetensors, a_full_disk_is_reported_and_leaves_nothing_behind)
{
    const int64_t n = 1 << 20;
    const kd_safetensors_spec big = {
        .name = "big", .dtype = KD_SAFETENSORS_F32, .n_dims = 1, .dims = {n}};
    const struct rlimit limit = {1 << 16, 1 << 16};
    kd_safetensors_writer *writer;
    float *zeros = calloc((size_t)n, sizeof *zeros);

    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    cr_assert(eq(int, kd_safetensors_create("big", &big, 1, &writer), KD_OK));
    cr_expect(eq(int, kd_safetensors_write_f32(writer, zeros, n), KD_ERR_IO));
    EXPECT_FAULT("big");
    kd_safetensors_abandon(writer);
    cr_expect(not(kd_file_exists("big")));
    cr_expect(not(kd_file_exists("big.tmp")));
    free(zeros);
}

Test(safetensors, bf16_rounds_to_nearest_even)
{
    const struct {
        uint32_t bits;
        uint16_t half;
    } cases[] = {
        {0x3f800000, 0x3f80}, {0x3f807fff, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81},
        {0x3f818000, 0x3f82}, {0x80000000, 0x8000}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80},
        {0x7f800001, 0x7fc0}, {0xffffffff, 0xffff}, {0x00000001, 0x0000}, {0x00018000, 0x0002},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(
            eq(u16, kd_bf16_from_f32((kd_float_bits){.bits = cases[i].bits}.value), cases[i].half),
            "case %zu", i);
    }
    for (uint32_t half = 0; half <= 0xffff; half++) { /* all but NaNs come back */
        const float value = kd_bf16_to_f32((uint16_t)half);
        cr_assert(isnan(value) || kd_bf16_from_f32(value) == half, "%x", half);
    }
}

Test(safetensors, f16_converts_exactly)
{
    const struct {
        uint16_t half;
        float value;
    } cases[] = {
        {0x3c00, 1.0f},     {0xc000, -2.0f},     {0x7bff, 65504.0f},
        {0x0400, 0x1p-14f}, {0x0001, 0x1p-24f},  {0x83ff, -1023 * 0x1p-24f},
        {0x7c00, INFINITY}, {0xfc00, -INFINITY}, {0x3555, 0x1.554p-2f},
        {0x0000, 0.0f},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(kd_f16_to_f32(cases[i].half) == cases[i].value, "case %zu", i);
    }
    cr_expect(isnan(kd_f16_to_f32(0x7e00)));
    cr_expect(signbit(kd_f16_to_f32(0x8000)) != 0);
}

Test(safetensors, every_floating_dtype_reads_as_f32_from_any_alignment)
{
    uint8_t bytes[256] = {0};
    const char *header = "{\"d\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]},"
                         "\"u\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                         "\"h\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[9,11]}}";
    const size_t n = strlen(header);
    const double d = 0.1;
    const uint16_t h = 0x3c00;
    kd_safetensors *file;
    float out = 0.0f;

    bytes[0] = (uint8_t)n;
    memcpy(bytes + 8, header, n);
    memcpy(bytes + 8 + n + 1, &d, 8);
    memcpy(bytes + 8 + n + 9, &h, 2);
    cr_assert(eq(int, kd_safetensors_open_memory("m", bytes, 8 + n + 11, &file), KD_OK), "%s",
              kd_fault_text());
    expect_values(file, "d", &(const float){0.1f}, 1);
    expect_values(file, "h", &(const float){1.0f}, 1);
    cr_expect(eq(int, kd_safetensors_read_f32(kd_safetensors_find(file, "u"), 0, 1, &out),
                 KD_ERR_INVALID));
    EXPECT_FAULT("m: tensor \"u\": dtype U8, expected F32");
    kd_safetensors_close(file);
}

Test(safetensors, a_missing_file_is_not_found)
{
    kd_safetensors *file;
    cr_expect(eq(int, kd_safetensors_open("none", &file), KD_ERR_NOT_FOUND));
}

#define ONE "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}"

Test(safetensors, a_wrong_header_length_is_refused)
{
    cr_assert(eq(int, kd_file_replace("x", "", 0), KD_OK));
    expect_refused(KD_ERR_PROTO, "0 bytes long", "expected");
    cr_assert(eq(int, kd_file_replace("x", "1234567", 7), KD_OK));
    expect_refused(KD_ERR_PROTO, "7 bytes long", "expected");
    put(0, ONE, 8);
    expect_refused(KD_ERR_PROTO, "header of 0 bytes", "expected a JSON object");
    put(strlen(ONE) + 9, ONE, 8);
    expect_refused(KD_ERR_PROTO, "beyond the end", "expected at most 62");
    put(KD_SAFETENSORS_HEADER_BYTES_MAX + 1u, ONE, 8);
    expect_refused(KD_ERR_PROTO, "header length 33554433", "at most 33554432");
    put(UINT64_MAX, ONE, 8);
    expect_refused(KD_ERR_PROTO, "header length 18446744073709551615", "at most");
    put(strlen(ONE) - 1, ONE, 8);
    expect_refused(KD_ERR_PROTO, "not valid JSON", "at byte");
}

Test(safetensors, a_header_that_is_no_json_object_is_refused)
{
    expect_header_refused("[1,2,3]", 0, KD_ERR_PROTO, "does not begin with '{'", "expected");
    expect_header_refused(" {}", 0, KD_ERR_PROTO, "does not begin with '{'", "expected");
    expect_header_refused("{} x", 0, KD_ERR_PROTO, "not valid JSON", "at byte");
    expect_header_refused("{\"a\": nonsense}", 0, KD_ERR_PROTO, "not valid JSON", "at byte");
    expect_header_refused("{\"a\":7}", 0, KD_ERR_PROTO, "tensor \"a\"", "expected an object");
}

Test(safetensors, an_empty_object_and_trailing_spaces_are_fine)
{
    kd_safetensors *file;
    put(5, "{}   ", 0);
    cr_assert(eq(int, kd_safetensors_open("x", &file), KD_OK));
    cr_expect(eq(sz, kd_safetensors_count(file), 0));
    kd_safetensors_close(file);
    kd_safetensors_close(NULL);
}

Test(safetensors, a_truncated_file_is_refused)
{
    put(strlen(ONE), ONE, 7);
    expect_refused(KD_ERR_PROTO, "tensor \"a\"", "out of range, expected within the 7 bytes");
    put(strlen(ONE), ONE, 9);
    expect_refused(KD_ERR_PROTO, "9 bytes of data", "expected 8");
}

#define ENTRY(name, dtype, shape, offsets)                                                         \
    "\"" name "\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

Test(safetensors, a_bad_dtype_is_refused)
{
    expect_header_refused("{" ENTRY("a", "\"F8_E4M3\"", "[2]", "[0,2]") "}", 2, KD_ERR_INVALID,
                          "tensor \"a\"", "unknown dtype \"F8_E4M3\", expected one of F64");
    expect_header_refused("{" ENTRY("a", "32", "[2]", "[0,8]") "}", 8, KD_ERR_PROTO, "tensor \"a\"",
                          "expected a string in \"dtype\"");
}

Test(safetensors, a_bad_shape_is_refused)
{
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[-2]", "[0,8]") "}", 8, KD_ERR_PROTO,
                          "dimension 0", "0 or more");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[2.5]", "[0,8]") "}", 8, KD_ERR_PROTO,
                          "dimension 0", "not an integer");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "8", "[0,8]") "}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "expected a list in \"shape\"");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8,
                          KD_ERR_INVALID, "9 dimensions", "at most 8");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[4294967296,4294967296]", "[0,8]") "}", 8,
                          KD_ERR_PROTO, "tensor \"a\"", "overflows at dimension 1");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[4611686018427387906]", "[0,8]") "}", 8,
                          KD_ERR_PROTO, "tensor \"a\"", "bytes of its shape overflow");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[99999999999999999999]", "[0,8]") "}", 8,
                          KD_ERR_PROTO, "not valid JSON", "at byte");
}

Test(safetensors, bad_offsets_are_refused)
{
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[2]", "[8,0]") "}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "[8, 0] are out of range");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[2]", "[-8,0]") "}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "[-8, 0] are out of range");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[2]", "[0,800]") "}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "expected within the 8 bytes");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[2]", "[0]") "}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "expected two integers");
    expect_header_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, KD_ERR_PROTO,
                          "tensor \"a\"", "expected two integers");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[3]", "[0,8]") "}", 8, KD_ERR_PROTO,
                          "hold 8 bytes", "expected 12 for 3 elements of F32");
}

Test(safetensors, overlapping_tensors_are_refused)
{
    expect_header_refused(
        "{" ENTRY("a", "\"F32\"", "[2]", "[0,8]") "," ENTRY("b", "\"F32\"", "[2]", "[4,12]") "}",
        12, KD_ERR_PROTO, "tensor \"b\": its data begins at 4",
        "overlaps tensor \"a\", which ends at 8");
    expect_header_refused(
        "{" ENTRY("a", "\"F32\"", "[2]", "[0,8]") "," ENTRY("b", "\"F32\"", "[2]", "[0,8]") "}", 8,
        KD_ERR_PROTO, "overlaps tensor \"a\"", "tensor \"b\"");
}

Test(safetensors, a_hole_between_tensors_is_refused)
{
    expect_header_refused(
        "{" ENTRY("a", "\"F32\"", "[1]", "[0,4]") "," ENTRY("b", "\"F32\"", "[1]", "[8,12]") "}",
        12, KD_ERR_PROTO, "tensor \"b\": its data begins at 8 behind a hole", "expected 4");
    expect_header_refused("{" ENTRY("a", "\"F32\"", "[1]", "[4,8]") "}", 8, KD_ERR_PROTO,
                          "behind a hole", "expected 0");
}

Test(safetensors, duplicate_names_are_refused)
{
    expect_header_refused(
        "{" ENTRY("a", "\"F32\"", "[1]", "[0,4]") "," ENTRY("a", "\"F32\"", "[1]", "[4,8]") "}", 8,
        KD_ERR_PROTO, "duplicate", "\"a\"");
}

Test(safetensors, metadata_holds_strings_only)
{
    kd_safetensors *file;
    const char *good = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"\"}}";
    put(strlen(good), good, 0);
    cr_assert(eq(int, kd_safetensors_open("x", &file), KD_OK));
    kd_safetensors_close(file);
    expect_header_refused("{\"__metadata__\":{\"step\":3}}", 0, KD_ERR_PROTO, "__metadata__",
                          "under \"step\"");
    expect_header_refused("{\"__metadata__\":\"pt\"}", 0, KD_ERR_PROTO, "__metadata__",
                          "expected an object");
}
