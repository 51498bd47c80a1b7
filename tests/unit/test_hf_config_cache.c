/* That config.json is parsed once for an inode and its time of change; the parser is counted by the linker's --wrap. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "shape/hf_config_cache.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"

kd_status __real_kd_hf_config_read(const char *path, kd_model_config *config_out);
kd_status __wrap_kd_hf_config_read(const char *path, kd_model_config *config_out);

static int n_parsed;

kd_status __wrap_kd_hf_config_read(const char *path, kd_model_config *config_out)
{
    n_parsed++;
    return __real_kd_hf_config_read(path, config_out);
}

static void enter(void)
{
    temporary_enter();
    kd_fault_quiet(1);
}

TestSuite(hf_config_cache, .init = enter, .fini = temporary_leave);

/* Of one length for every vocabulary of three digits. */
static void write_config(const char *path, int vocab_size)
{
    char text[512];
    (void)snprintf(text, sizeof text,
                   "{\"model_type\": \"llama\", \"vocab_size\": %d, \"hidden_size\": 64, "
                   "\"num_hidden_layers\": 3, \"num_attention_heads\": 4, "
                   "\"rms_norm_eps\": 1e-5, \"intermediate_size\": 80}",
                   vocab_size);
    temporary_write(path, text);
}

static void expect_vocabulary(const char *folder, int vocab_size, int n_parsed_then)
{
    kd_model_config config = {0};
    cr_assert(eq(int, kd_hf_config_read_cached(folder, &config), KD_OK), "%s", kd_fault_text());
    cr_expect(eq(i64, config.vocab_size, vocab_size), "%s", folder);
    cr_expect(eq(int, n_parsed, n_parsed_then), "%s", folder);
}

Test(hf_config_cache, a_file_is_parsed_once_by_whatever_name)
{
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_assert(symlink("m", "alias") == 0);
    write_config("m/config.json", 100);
    expect_vocabulary("m", 100, 1);
    expect_vocabulary("m", 100, 1);
    expect_vocabulary("alias", 100, 1);
}

Test(hf_config_cache, a_file_that_took_its_place_is_parsed)
{
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    write_config("m/config.json", 100);
    expect_vocabulary("m", 100, 1);
    write_config("m/new", 200);
    cr_assert(rename("m/new", "m/config.json") == 0);
    expect_vocabulary("m", 200, 2);
}

/* The same inode and size, and its time of modification put back: that of change cannot be. */
Test(hf_config_cache, a_file_that_changed_is_parsed_again)
{
    struct stat before, after;
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    write_config("m/config.json", 100);
    expect_vocabulary("m", 100, 1);
    cr_assert(stat("m/config.json", &before) == 0);
    do { /* the clock of files ticks slowly */
        write_config("m/config.json", 200);
        const struct timespec times[] = {before.st_atim, before.st_mtim};
        cr_assert(utimensat(AT_FDCWD, "m/config.json", times, 0) == 0);
        cr_assert(stat("m/config.json", &after) == 0);
    } while (after.st_ctim.tv_sec == before.st_ctim.tv_sec &&
             after.st_ctim.tv_nsec == before.st_ctim.tv_nsec);
    cr_assert(after.st_ino == before.st_ino && after.st_size == before.st_size);
    cr_assert(after.st_mtim.tv_nsec == before.st_mtim.tv_nsec);
    expect_vocabulary("m", 200, 2);
}

Test(hf_config_cache, what_does_not_parse_is_read_again)
{
    kd_model_config config = {.vocab_size = 7};
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    temporary_write("m/config.json", "{");
    for (int i = 1; i <= 2; i++) {
        cr_expect(eq(int, kd_hf_config_read_cached("m", &config), KD_ERR_PROTO));
        EXPECT_FAULT("m/config.json:1:");
        cr_expect(eq(int, n_parsed, i));
    }
    cr_expect(eq(i64, config.vocab_size, 7));
}

/* More than are kept: the first is forgotten, and none is taken for another. */
Test(hf_config_cache, each_of_many_models_has_its_own_shape)
{
    enum { N_MODELS = 150 };

    for (int i = 0; i < N_MODELS; i++) {
        const char *folder = temporary_path("m%d", i);
        cr_assert(eq(int, kd_folder_make(folder), KD_OK));
        write_config(temporary_path("m%d/config.json", i), 100 + i);
        expect_vocabulary(folder, 100 + i, i + 1);
    }
    expect_vocabulary(temporary_path("m%d", N_MODELS - 1), 100 + N_MODELS - 1, N_MODELS);
    expect_vocabulary(temporary_path("m%d", 0), 100, N_MODELS + 1);
}

/* A pipe that nobody writes to would be waited for. */
Test(hf_config_cache, what_is_no_file_is_refused_unread)
{
    kd_model_config config;
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_expect(eq(int, kd_hf_config_read_cached("m", &config), KD_ERR_NOT_FOUND));
    cr_assert(mkfifo("m/config.json", 0600) == 0);
    cr_expect(eq(int, kd_hf_config_read_cached("m", &config), KD_ERR_INVALID));
    EXPECT_FAULT("m/config.json: found no regular file, expected one");
    cr_expect(eq(int, n_parsed, 0));
}
