#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"
#include "data/pack.h"
#include "data/shard.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

enum { T = 16, BLOCK = T * KD_PACK_BLOCK_SEQUENCES };

static const char *const one_file[] = {"a.txt"};

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
}

TestSuite(pack, .init = enter, .fini = temporary_leave);

static kd_pack_settings settings_of(const char *const *files, size_t n_files)
{
    return (kd_pack_settings){
        .files = files,
        .n_files = n_files,
        .tokenizer = KD_TOKENIZER_BYTE,
        .sequence_length = T,
        .held_out = 0.25,
        .split_seed = 1,
        .out_train_path = "train",
        .out_test_path = "test",
    };
}

/* Text whose every position can be told by what stands there. */
static char *make_text(size_t size)
{
    char *text = malloc(size + 1);
    for (size_t i = 0; i < size; i++) {
        text[i] = (char)('0' + kd_rng_u64(8, i) % 75);
    }
    text[size] = '\0';
    return text;
}

static void write_random(const char *path, size_t size)
{
    char *text = make_text(size);
    temporary_write(path, text);
    free(text);
}

/* The tokens of a shard, the caller's to free. */
static int32_t *read_shard(const char *path, uint64_t *n_out)
{
    kd_shard shard;
    int32_t label;
    cr_assert(eq(int, kd_shard_open(&shard, path), KD_OK), "%s", kd_fault_text());
    int32_t *tokens = malloc((shard.n_tokens + 1) * sizeof *tokens);
    for (uint64_t i = 0; i + 1 < shard.n_tokens; i++) {
        kd_shard_read(&shard, i, 1, &tokens[i], &label);
        tokens[i + 1] = label;
    }
    *n_out = shard.n_tokens;
    kd_shard_close(&shard);
    return tokens;
}

static void expect_shard_holds(const char *path, const char *bytes, size_t n_bytes)
{
    uint64_t n;
    int32_t *tokens = read_shard(path, &n);
    cr_assert(eq(u64, n, n_bytes), "%s", path);
    for (uint64_t i = 0; i < n; i++) {
        cr_assert(eq(i32, tokens[i], (unsigned char)bytes[i]), "token %lu of %s", i, path);
    }
    free(tokens);
}

static void expect_refused(const kd_pack_settings *settings, kd_status expected, const char *part)
{
    kd_pack_result result = {77, 78};
    cr_expect(eq(int, kd_pack(settings, &result), expected));
    EXPECT_FAULT(part);
    cr_expect(result.n_train_tokens == 77 && result.n_test_tokens == 78);
    const char *const paths[] = {"train", "test", "train.tmp", "test.tmp"};
    for (size_t i = 0; i < 4; i++) {
        cr_expect(not(kd_file_exists(paths[i])), "%s was left", paths[i]);
    }
    cr_expect(not(kd_pack_is_current(settings)));
}

Test(pack, without_held_out_text_the_train_shard_is_the_whole_stream)
{
    const char *const files[] = {"a", "b"};
    kd_pack_settings settings = settings_of(files, 2);
    kd_pack_result result;
    temporary_write("a", "the first document");
    temporary_write("b", "the other one");
    settings.held_out = 0;
    settings.out_test_path = NULL;
    cr_assert(eq(int, kd_pack(&settings, &result), KD_OK));
    cr_expect(eq(u64, result.n_train_tokens, 33));
    cr_expect(eq(u64, result.n_test_tokens, 0));
    expect_shard_holds("train", "the first document\0the other one", 33);
    cr_expect(not(kd_file_exists("test")));
}

/* The stream is cut by the rule of the header; each block stands in its shard and no other. */
Test(pack, each_block_goes_where_the_draw_says_and_nowhere_else)
{
    enum { SIZE = 40 * BLOCK + 100 };

    char *text = make_text(SIZE), *expected[2] = {malloc(SIZE + 1), malloc(SIZE + 1)};
    size_t n[2] = {0};
    const kd_pack_settings settings = settings_of(one_file, 1);
    kd_pack_result result;
    temporary_write("a.txt", text);
    for (size_t i = 0; i < SIZE + 1; i++) { /* the NUL of the string is the end token */
        const int to = kd_rng_uniform(kd_rng_key(1, "split"), i / BLOCK) < 0.25;
        expected[to][n[to]++] = text[i];
    }
    cr_assert(eq(int, kd_pack(&settings, &result), KD_OK));
    cr_expect(eq(u64, result.n_train_tokens, n[0]));
    cr_expect(eq(u64, result.n_test_tokens, n[1]));
    expect_shard_holds("train", expected[0], n[0]);
    expect_shard_holds("test", expected[1], n[1]);
    free(text);
    free(expected[0]);
    free(expected[1]);
}

/* A file of several read pieces, cut at sizes that are no multiple of anything. */
Test(pack, a_file_larger_than_one_piece_comes_out_whole)
{
    enum { SIZE = (1 << 19) + 12345 };

    char *text = make_text(SIZE);
    kd_pack_settings settings = settings_of(one_file, 1);
    settings.held_out = 0;
    temporary_write("a.txt", text);
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    expect_shard_holds("train", text, SIZE + 1);
    free(text);
}

Test(pack, the_held_out_share_is_about_what_was_asked)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    kd_pack_result result;
    write_random("a.txt", 1000 * BLOCK);
    settings.held_out = 0.05;
    cr_assert(eq(int, kd_pack(&settings, &result), KD_OK));
    const double share = (double)result.n_test_tokens / (1000 * BLOCK);
    cr_expect(epsilon_eq(dbl, share, 0.05, 0.025));
}

static void expect_same_file(const char *a_path, const char *b_path, bool same)
{
    char *a, *b;
    size_t n_a, n_b;
    cr_assert(eq(int, kd_file_read(a_path, 1 << 24, &a, &n_a), KD_OK));
    cr_assert(eq(int, kd_file_read(b_path, 1 << 24, &b, &n_b), KD_OK));
    const bool equal = n_a == n_b && memcmp(a, b, n_a) == 0;
    cr_expect(equal == same, "%s and %s", a_path, b_path);
    free(a);
    free(b);
}

Test(pack, the_same_settings_make_the_same_bytes_and_another_seed_others)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    write_random("a.txt", 50 * BLOCK);
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    settings.out_train_path = "train2";
    settings.out_test_path = "test2";
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    expect_same_file("train", "train2", true);
    expect_same_file("test", "test2", true);
    settings.split_seed = 2;
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    expect_same_file("test", "test2", false);
}

static uint64_t count_tokens(const char *path)
{
    uint64_t n;
    free(read_shard(path, &n));
    return n;
}

Test(pack, the_shortest_text_that_suffices_gives_both_shards_a_sequence)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    const double shares[] = {1e-9, 0.3, 0.999999};
    write_random("a.txt", BLOCK + T); /* and the end token */
    for (size_t i = 0; i < 3; i++) {
        for (settings.split_seed = 0; settings.split_seed < 8; settings.split_seed++) {
            settings.held_out = shares[i];
            cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK), "%s", kd_fault_text());
            cr_expect(gt(u64, count_tokens("train"), T));
            cr_expect(gt(u64, count_tokens("test"), T));
            cr_expect(eq(u64, count_tokens("train") + count_tokens("test"), BLOCK + T + 1));
        }
    }
}

Test(pack, too_short_a_text_names_the_tokens_found_and_needed)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    write_random("a.txt", BLOCK + T - 1);
    settings.held_out = 1e-9;
    expect_refused(&settings, KD_ERR_INVALID, "found 272 tokens, needed at least 273");
    settings.held_out = 0;
    write_random("a.txt", T - 1);
    expect_refused(&settings, KD_ERR_INVALID, "found 16 tokens, needed at least 17");
}

Test(pack, settings_out_of_range_are_refused)
{
    write_random("a.txt", 10 * BLOCK);
    const double shares[] = {-0.1, 1.0, NAN};
    kd_pack_settings settings = settings_of(one_file, 1);
    for (size_t i = 0; i < 3; i++) {
        settings.held_out = shares[i];
        expect_refused(&settings, KD_ERR_INVALID, "held-out share");
    }
    settings = settings_of(one_file, 1);
    settings.sequence_length = 0;
    expect_refused(&settings, KD_ERR_INVALID, "sequence length: found 0");
    settings = settings_of(one_file, 0);
    expect_refused(&settings, KD_ERR_INVALID, "no files");
}

Test(pack, a_missing_file_is_not_found)
{
    const char *const files[] = {"a.txt", "gone.txt"};
    const kd_pack_settings settings = settings_of(files, 2);
    write_random("a.txt", 10 * BLOCK);
    expect_refused(&settings, KD_ERR_NOT_FOUND, "cannot open gone.txt: No such file");
}

Test(pack, a_file_that_cannot_be_read_is_named)
{
    const char *const files[] = {"folder", "a.txt"};
    const kd_pack_settings folder_settings = settings_of(files, 1);
    cr_assert(eq(int, kd_folder_make("folder"), KD_OK));
    expect_refused(&folder_settings, KD_ERR_INVALID, "cannot read folder: Is a directory");

    const char *const below_file[] = {"a.txt/b"};
    const kd_pack_settings settings = settings_of(below_file, 1);
    write_random("a.txt", 10 * BLOCK);
    expect_refused(&settings, KD_ERR_INVALID, "cannot open a.txt/b: Not a directory");
}

Test(pack, a_pipe_is_refused_and_not_waited_for, .timeout = 20)
{
    const kd_pack_settings settings = settings_of(one_file, 1);
    cr_assert(eq(int, mkfifo("a.txt", 0600), 0));
    expect_refused(&settings, KD_ERR_INVALID, "cannot read a.txt: it is not a regular file");
}

Test(pack, a_file_without_text_is_refused)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    temporary_write("a.txt", "");
    expect_refused(&settings, KD_ERR_INVALID, "no text in a.txt");
    temporary_write("a.txt", " \n\t\n");
    expect_refused(&settings, KD_ERR_INVALID, "no text in a.txt");
    settings.text_field = "text";
    temporary_write("a.txt", "\n{\"text\": \"\"}\n");
    expect_refused(&settings, KD_ERR_INVALID, "no text in a.txt");
}

Test(pack, a_nul_in_a_text_names_file_and_offset)
{
    enum { SIZE = 300000, AT = 270000 };

    const kd_pack_settings settings = settings_of(one_file, 1);
    char *text = make_text(SIZE);
    text[AT] = '\0';
    cr_assert(eq(int, kd_file_replace("a.txt", text, SIZE), KD_OK));
    expect_refused(&settings, KD_ERR_INVALID, "a.txt: byte 270000 is NUL");
    free(text);
}

Test(pack, an_output_that_cannot_be_written_leaves_nothing)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    write_random("a.txt", 10 * BLOCK);
    settings.out_test_path = "no/test";
    expect_refused(&settings, KD_ERR_IO, "no/test");
    settings.out_test_path = "test";
    settings.out_train_path = "no/train";
    expect_refused(&settings, KD_ERR_IO, "no/train");
}

/* A file size limit stands for the full disk. */
Test(pack, a_full_disk_leaves_nothing)
{
    const kd_pack_settings settings = settings_of(one_file, 1);
    struct rlimit limit;
    write_random("a.txt", 1500 * BLOCK); /* more than the writers buffer */
    (void)signal(SIGXFSZ, SIG_IGN);
    cr_assert(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    const struct rlimit small = {100000, limit.rlim_max};
    cr_assert(setrlimit(RLIMIT_FSIZE, &small) == 0);
    expect_refused(&settings, KD_ERR_IO, "train.tmp: File too large");
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

Test(pack, a_process_that_is_to_end_packs_no_more)
{
    const kd_pack_settings settings = settings_of(one_file, 1);
    write_random("a.txt", 10 * BLOCK);
    kd_progress_stop();
    expect_refused(&settings, KD_ERR_STOPPED, "asked to end");
}

static kd_pack_settings jsonl_settings(void)
{
    kd_pack_settings settings = settings_of(one_file, 1);
    settings.text_field = "text";
    settings.held_out = 0;
    return settings;
}

Test(pack, json_lines_give_a_document_a_line)
{
    kd_pack_settings settings = jsonl_settings();
    temporary_write("a.txt", "{\"id\": 1, \"text\": \"first\\nand \\u00e4\"}\r\n\n"
                             "{\"text\": \"\"}\n"
                             "  {\"text\": \"the second one\", \"x\": [{}]}");
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK), "%s", kd_fault_text());
    expect_shard_holds("train", "first\nand \xc3\xa4\0the second one", 28);
}

Test(pack, json_lines_longer_than_a_piece_come_out_whole)
{
    enum { SIZE = 600000 };

    kd_pack_settings settings = jsonl_settings();
    char *text = make_text(SIZE), *line = NULL;
    for (size_t i = 0; i < SIZE; i++) {
        text[i] = text[i] == '\\' ? 'b' : text[i];
    }
    settings.text_field = "body";
    cr_assert(asprintf(&line, "{\"body\":\"%s\"}\n{\"body\":\"%s\"}\n", text, "end") > 0);
    temporary_write("a.txt", line);
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK), "%s", kd_fault_text());
    uint64_t n;
    int32_t *tokens = read_shard("train", &n);
    cr_assert(eq(u64, n, SIZE + 1 + 4));
    for (uint64_t i = 0; i < SIZE; i++) {
        cr_assert(eq(i32, tokens[i], text[i]));
    }
    cr_expect(tokens[SIZE] == 0 && tokens[SIZE + 1] == 'e' && tokens[SIZE + 4] == 0);
    free(tokens);
    free(line);
    free(text);
}

static void expect_line_refused(const char *line, kd_status expected, const char *part)
{
    char text[512];
    const kd_pack_settings settings = jsonl_settings();
    (void)snprintf(text, sizeof text, "{\"text\": \"good\"}\n\n%s\n{\"text\": \"x\"}\n", line);
    temporary_write("a.txt", text);
    expect_refused(&settings, expected, part);
}

Test(pack, a_bad_line_is_refused_with_file_line_and_field)
{
    expect_line_refused("{\"text\": \"open", KD_ERR_PROTO, "a.txt:3:");
    expect_line_refused("{\"text\": \"a\"} x", KD_ERR_PROTO, "a.txt:3:");
    expect_line_refused("{\"text\": \"\xff\"}", KD_ERR_PROTO, "a.txt:3:");
    expect_line_refused("{\"text\":\"a\",\"text\":\"b\"}", KD_ERR_PROTO, "duplicate");
    expect_line_refused("{\"body\": \"a\"}", KD_ERR_INVALID, "a.txt:3: there is no field 'text'");
    expect_line_refused("{\"text\": 7}", KD_ERR_INVALID,
                        "a.txt:3: field 'text' is a number, expected a string");
    expect_line_refused("{\"text\": null}", KD_ERR_INVALID, "field 'text' is null");
    expect_line_refused("[1]", KD_ERR_INVALID, "a.txt:3: found an array, expected an object");
    expect_line_refused("{\"text\": \"a\\u0000b\"}", KD_ERR_INVALID, "a.txt:3: byte 1 is NUL");
}

Test(pack, deeply_nested_json_is_an_error_and_no_crash)
{
    enum { DEPTH = 100000 };

    const kd_pack_settings settings = jsonl_settings();
    char *line = malloc(DEPTH + 1);
    memset(line, '[', DEPTH);
    line[DEPTH] = '\0';
    temporary_write("a.txt", line);
    expect_refused(&settings, KD_ERR_PROTO, "a.txt:1:");
    free(line);
}

Test(pack, shards_are_current_until_something_they_depend_on_changes)
{
    const char *const files[] = {"a.txt", "b.txt"}, *const turned[] = {"b.txt", "a.txt"};
    kd_pack_settings settings = settings_of(files, 2), other;
    write_random("a.txt", 20 * BLOCK);
    write_random("b.txt", 20 * BLOCK);
    cr_expect(not(kd_pack_is_current(&settings)));
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    cr_expect(kd_pack_is_current(&settings));

    other = settings, other.split_seed = 9;
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.held_out = 0.2500001;
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.sequence_length = T + 1;
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.text_field = "text";
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.files = turned;
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.n_files = 1;
    cr_expect(not(kd_pack_is_current(&other)));
    other = settings, other.out_test_path = "train";
    cr_expect(not(kd_pack_is_current(&other)));
}

Test(pack, shards_that_are_current_say_what_they_hold)
{
    const kd_pack_settings settings = settings_of(one_file, 1);
    kd_pack_result made, found = {.n_train_tokens = 7};
    write_random("a.txt", 20 * BLOCK);
    cr_expect(not(kd_pack_find(&settings, &found)));
    cr_expect(eq(u64, found.n_train_tokens, 7));
    cr_assert(eq(int, kd_pack(&settings, &made), KD_OK));
    cr_expect(kd_pack_find(&settings, &found));
    cr_expect(eq(u64, found.n_train_tokens, made.n_train_tokens));
    cr_expect(eq(u64, found.n_test_tokens, made.n_test_tokens));
}

Test(pack, shards_are_stale_once_a_file_was_touched_or_a_shard_is_gone)
{
    const kd_pack_settings settings = settings_of(one_file, 1);
    const struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000, .tv_nsec = 5}};
    write_random("a.txt", 20 * BLOCK);
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    cr_assert(utimensat(AT_FDCWD, "a.txt", times, 0) == 0);
    cr_expect(not(kd_pack_is_current(&settings)));
    cr_assert(eq(int, kd_pack(&settings, NULL), KD_OK));
    cr_expect(kd_pack_is_current(&settings));
    cr_assert(unlink("test") == 0);
    cr_expect(not(kd_pack_is_current(&settings)));
}
