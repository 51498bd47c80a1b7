#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "data/shard.h"
#include "data/shard_writer.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

enum { N = 5000 };

static const kd_shard_info byte_info = {.vocab_size = 256,
                                        .end_token = 0,
                                        .tokenizer_hash = 5,
                                        .fingerprint = 99};

static uint32_t token_of(uint64_t i, uint32_t vocab_size)
{
    return (uint32_t)(i * 7919 % vocab_size);
}

static void write_shard(const char *path, const kd_shard_info *info, uint64_t n)
{
    kd_shard_writer writer;
    cr_assert(eq(int, kd_shard_writer_open(&writer, path, info, "train"), KD_OK));
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t id = token_of(i, info->vocab_size);
        cr_assert(eq(int, kd_shard_writer_add(&writer, &id, 1), KD_OK));
    }
    cr_assert(eq(int, kd_shard_writer_commit(&writer), KD_OK));
}

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
    write_shard("s", &byte_info, N);
}

TestSuite(shard, .init = enter, .fini = temporary_leave);

static void overwrite(size_t offset, const void *bytes, size_t size)
{
    const int fd = open("s", O_RDWR);
    cr_assert(pwrite(fd, bytes, size, (off_t)offset) == (ssize_t)size);
    cr_assert(close(fd) == 0);
}

static kd_shard_header read_header(void)
{
    kd_shard_header header;
    const int fd = open("s", O_RDONLY);
    cr_assert(read(fd, &header, sizeof header) == sizeof header);
    cr_assert(close(fd) == 0);
    return header;
}

/* A header that lies, but whose own hash is right. */
static void forge(kd_shard_header header)
{
    header.header_hash = kd_shard_header_hash(&header);
    overwrite(0, &header, sizeof header);
}

static void expect_refused(const char *part)
{
    kd_shard shard = {.n_tokens = 42};
    cr_expect(eq(int, kd_shard_open(&shard, "s"), KD_ERR_PROTO));
    EXPECT_FAULT(part);
    cr_expect(strstr(kd_fault_text(), "s ") == kd_fault_text() ||
              strstr(kd_fault_text(), "s: ") == kd_fault_text());
    cr_expect(eq(u64, shard.n_tokens, 42));
}

Test(shard, what_was_written_is_read)
{
    kd_shard shard;
    cr_assert(eq(int, kd_shard_open(&shard, "s"), KD_OK));
    cr_expect(eq(u64, shard.n_tokens, N));
    cr_expect(eq(u32, shard.token_bytes, 2));
    cr_expect(eq(u32, shard.info.vocab_size, 256));
    cr_expect(eq(u64, shard.info.tokenizer_hash, 5));
    cr_expect(eq(u64, shard.info.fingerprint, 99));
    cr_expect(eq(str, shard.info.split, "train"));

    int32_t tokens[18], labels[18];
    tokens[17] = labels[17] = 12345;
    kd_shard_read(&shard, 100, 17, tokens, labels);
    for (uint64_t i = 0; i < 17; i++) {
        cr_expect(eq(i32, tokens[i], (int32_t)token_of(100 + i, 256)));
        cr_expect(eq(i32, labels[i], (int32_t)token_of(101 + i, 256)));
    }
    cr_expect(tokens[17] == 12345 && labels[17] == 12345);
    kd_shard_close(&shard);
    kd_shard_close(&shard);
}

Test(shard, a_process_that_is_to_end_opens_no_more)
{
    kd_shard shard = {.n_tokens = 42};
    kd_progress_stop();
    cr_expect(eq(int, kd_shard_open(&shard, "s"), KD_ERR_STOPPED));
    EXPECT_FAULT("asked to end");
    cr_expect(eq(u64, shard.n_tokens, 42));
}

/* A rank that opens one is not taken for hung: 2 MiB of tokens are hashed and checked in pieces. */
Test(shard, a_long_one_opens_with_signs_of_progress)
{
    kd_shard shard;
    write_shard("long", &byte_info, UINT64_C(1) << 20);
    const uint64_t before = kd_progress_count();
    cr_assert(eq(int, kd_shard_open(&shard, "long"), KD_OK));
    cr_expect(ge(u64, kd_progress_count() - before, 4));
    kd_shard_close(&shard);
}

Test(shard, a_large_vocabulary_takes_four_bytes_a_token)
{
    const kd_shard_info info = {.vocab_size = 70000};
    kd_shard shard;
    int32_t token, label;
    write_shard("wide", &info, N);
    cr_assert(eq(int, kd_shard_open(&shard, "wide"), KD_OK));
    cr_expect(eq(u32, shard.token_bytes, 4));
    for (uint64_t i = 0; i + 1 < N; i++) {
        kd_shard_read(&shard, i, 1, &token, &label);
        cr_assert(eq(i32, token, (int32_t)token_of(i, 70000)));
        cr_assert(eq(i32, label, (int32_t)token_of(i + 1, 70000)));
    }
    kd_shard_close(&shard);
}

Test(shard, the_same_tokens_make_the_same_bytes)
{
    char *a, *b;
    size_t n_a, n_b;
    uint32_t ids[N];
    kd_shard_writer writer;
    for (uint64_t i = 0; i < N; i++) {
        ids[i] = token_of(i, 256);
    }
    cr_assert(eq(int, kd_shard_writer_open(&writer, "t", &byte_info, "train"), KD_OK));
    cr_assert(eq(int, kd_shard_writer_add(&writer, ids, N), KD_OK));
    cr_assert(eq(int, kd_shard_writer_commit(&writer), KD_OK));
    cr_assert(eq(int, kd_file_read("s", 1 << 20, &a, &n_a), KD_OK));
    cr_assert(eq(int, kd_file_read("t", 1 << 20, &b, &n_b), KD_OK));
    cr_expect(n_a == n_b && memcmp(a, b, n_a) == 0);
    free(a);
    free(b);
}

Test(shard, an_abandoned_one_leaves_no_file)
{
    const uint32_t id = 1;
    kd_shard_writer writer;
    cr_assert(eq(int, kd_shard_writer_open(&writer, "t", &byte_info, "test"), KD_OK));
    cr_assert(eq(int, kd_shard_writer_add(&writer, &id, 1), KD_OK));
    kd_shard_writer_abandon(&writer);
    cr_expect(not(kd_file_exists("t")));
    cr_expect(not(kd_file_exists("t.tmp")));
}

Test(shard, an_unwritable_path_is_refused_and_named)
{
    kd_shard_writer writer;
    cr_expect(eq(int, kd_shard_writer_open(&writer, "no/t", &byte_info, "test"), KD_ERR_IO));
    EXPECT_FAULT("no/t");
}

Test(shard, a_missing_file_is_not_found)
{
    kd_shard shard;
    cr_expect(eq(int, kd_shard_open(&shard, "gone"), KD_ERR_NOT_FOUND));
}

Test(shard, another_kind_of_file_is_refused)
{
    overwrite(0, "SQLite f", 8);
    expect_refused("not a token shard");
}

Test(shard, another_version_is_refused_by_number)
{
    kd_shard_header header = read_header();
    header.version = 7;
    forge(header);
    expect_refused("found shard version 7, expected 1");
}

Test(shard, a_file_shorter_than_a_header_is_truncated)
{
    cr_assert(truncate("s", 50) == 0);
    expect_refused("truncated: found 50 bytes");
    cr_assert(truncate("s", 0) == 0);
    expect_refused("truncated: found 0 bytes");
}

Test(shard, a_file_cut_at_any_place_is_refused)
{
    for (off_t size = (off_t)(sizeof(kd_shard_header) + 2 * N - 1); size > 0; size -= 97) {
        kd_shard shard;
        cr_assert(truncate("s", size) == 0);
        cr_assert(eq(int, kd_shard_open(&shard, "s"), KD_ERR_PROTO));
    }
}

Test(shard, a_cut_file_names_found_and_expected)
{
    cr_assert(truncate("s", sizeof(kd_shard_header) + 2 * N - 2) == 0);
    expect_refused("found 10102 bytes, expected 104 and 5000 tokens of 2");
}

Test(shard, bytes_behind_the_end_are_refused)
{
    cr_assert(truncate("s", sizeof(kd_shard_header) + 2 * N + 2) == 0);
    expect_refused("wrong size");
}

Test(shard, one_wrong_bit_in_the_header_is_refused)
{
    for (size_t at = 0; at < sizeof(kd_shard_header); at++) {
        kd_shard shard;
        const kd_shard_header good = read_header();
        kd_shard_header bad = good;
        ((uint8_t *)&bad)[at] ^= 0x10;
        overwrite(0, &bad, sizeof bad);
        cr_assert(eq(int, kd_shard_open(&shard, "s"), KD_ERR_PROTO), "byte %zu", at);
        overwrite(0, &good, sizeof good);
    }
}

Test(shard, one_wrong_bit_in_the_tokens_is_refused)
{
    overwrite(sizeof(kd_shard_header) + 1234, "\xff", 1);
    expect_refused("its tokens hash to");
}

Test(shard, a_number_of_tokens_that_wraps_is_refused)
{
    kd_shard_header header = read_header();
    header.n_tokens = (UINT64_C(1) << 63) + N; /* times 2 bytes wraps to the right size */
    forge(header);
    expect_refused("wrong size");
}

Test(shard, a_wrong_token_width_is_refused)
{
    kd_shard_header header = read_header();
    header.token_bytes = 0;
    forge(header);
    expect_refused("found tokens of 0 bytes, expected 2");
}

Test(shard, a_vocabulary_out_of_range_is_refused)
{
    kd_shard_header header = read_header();
    header.info.vocab_size = 0;
    forge(header);
    expect_refused("found a vocabulary of 0");
    header.info.vocab_size = UINT32_MAX;
    forge(header);
    expect_refused("found a vocabulary of 4294967295");
}

Test(shard, a_split_name_without_end_is_refused)
{
    kd_shard_header header = read_header();
    memset(header.info.split, 'x', sizeof header.info.split);
    forge(header);
    expect_refused("name of its split");
}

Test(shard, a_token_outside_the_vocabulary_is_refused)
{
    kd_shard_header header = read_header();
    header.info.vocab_size = 200;
    forge(header);
    expect_refused("expected less than 200");
}

Test(shard, reading_past_the_end_is_a_check, .signal = SIGABRT)
{
    kd_shard shard;
    int32_t tokens[16], labels[16];
    cr_assert(eq(int, kd_shard_open(&shard, "s"), KD_OK));
    temporary_leave();                                 /* a crash skips it */
    kd_shard_read(&shard, N - 16, 16, tokens, labels); /* the last label is not there */
}

Test(shard, writing_a_token_outside_the_vocabulary_is_a_check, .signal = SIGABRT)
{
    const uint32_t id = 256;
    kd_shard_writer writer;
    cr_assert(eq(int, kd_shard_writer_open(&writer, "t", &byte_info, "test"), KD_OK));
    temporary_leave(); /* a crash skips it */
    (void)!kd_shard_writer_add(&writer, &id, 1);
}

Test(shard, find_looks_at_fingerprint_split_and_size)
{
    uint64_t n_tokens = 7;
    cr_expect(not(kd_shard_find("s", 98, "train", &n_tokens)));
    cr_expect(not(kd_shard_find("s", 99, "test", &n_tokens)));
    cr_expect(not(kd_shard_find("gone", 99, "train", &n_tokens)));
    cr_expect(eq(u64, n_tokens, 7), "untouched");
    cr_expect(kd_shard_find("s", 99, "train", &n_tokens));
    cr_expect(eq(u64, n_tokens, N));
    cr_assert(truncate("s", 1000) == 0);
    cr_expect(not(kd_shard_find("s", 99, "train", &n_tokens)));
    cr_assert(truncate("s", 10) == 0);
    cr_expect(not(kd_shard_find("s", 99, "train", &n_tokens)));
}
