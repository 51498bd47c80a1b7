/* A model in several files, and the index that lists them. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "format/shards.h"
#include "tests/support/fault.h"
#include "tests/support/numbered_model.h"
#include "tests/support/temporary.h"

static void only_head(kd_safetensors_spec *specs, size_t *n)
{
    specs[0] = *numbered_spec(specs, *n, "lm_head.weight");
    *n = 1;
}

static void all_but_head(kd_safetensors_spec *specs, size_t *n)
{
    *numbered_spec(specs, *n, "lm_head.weight") = specs[*n - 1];
    (*n)--;
}

/* Splits "m" in two shards and lists them, with one entry changed if asked for. */
static void put_shards(const char *name, const char *other_file)
{
    char text[8192];
    kd_safetensors *file;

    numbered_rewrite("m/one.safetensors", all_but_head);
    numbered_rewrite("m/two.safetensors", only_head);
    cr_assert(eq(int, kd_safetensors_open("m/model.safetensors", &file), KD_OK));
    int at = snprintf(text, sizeof text, "{\"weight_map\": {");
    for (size_t i = 0; i < kd_safetensors_count(file); i++) {
        const char *tensor = kd_safetensors_at(file, i)->name;
        const char *shard =
            strcmp(tensor, "lm_head.weight") == 0 ? "two.safetensors" : "one.safetensors";
        at += snprintf(text + at, sizeof text - (size_t)at, "%s\"%s\": \"%s\"", i > 0 ? ", " : "",
                       tensor, name != NULL && strcmp(tensor, name) == 0 ? other_file : shard);
    }
    at += snprintf(text + at, sizeof text - (size_t)at, "}}");
    kd_safetensors_close(file);
    cr_assert(unlink("m/model.safetensors") == 0);
    cr_assert(eq(int, kd_file_replace("m/model.safetensors.index.json", text, (size_t)at), KD_OK));
}

Test(model_folder, shards_are_read_through_their_index)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_OK), "%s",
              kd_fault_text());
}

Test(model_folder, an_index_that_puts_a_tensor_into_the_wrong_shard_is_refused)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards("model.norm.weight", "two.safetensors");
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("tensor \"model.norm.weight\" is not in two.safetensors");
}

Test(model_folder, an_index_that_leads_elsewhere_is_refused)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards("model.norm.weight", "../one.safetensors");
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("expected the name of a file in the same folder, found \"../one.safetensors\"");
}

Test(model_folder, a_shard_that_is_not_there_is_not_found)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(unlink("m/two.safetensors") == 0);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_NOT_FOUND));
    EXPECT_FAULT("m/two.safetensors");
}

Test(model_folder, an_index_is_read_with_signs_of_progress_and_within_bounds)
{
    const char *index = "m/model.safetensors.index.json";
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    kd_shards *shards;
    const uint64_t before = kd_progress_count();
    cr_assert(eq(int, kd_shards_open("m", &shards), KD_OK));
    cr_expect(ge(u64, kd_progress_count() - before, 2));
    kd_shards_close(shards);
    cr_assert(truncate(index, (32 << 20) + 1) == 0);
    cr_expect(eq(int, kd_shards_open("m", &shards), KD_ERR_INVALID));
    EXPECT_FAULT("index.json is too large: expected at most 33554432 bytes");
}

Test(model_folder, an_index_that_is_not_one_is_refused)
{
    const char *index = "m/model.safetensors.index.json";
    cr_assert(eq(int, kd_folder_make("m"), KD_OK));
    cr_assert(eq(int, kd_file_replace(index, "{", 1), KD_OK));
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("index.json:1:");
    cr_assert(eq(int, kd_file_replace(index, "{}", 2), KD_OK));
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_PROTO));
    EXPECT_FAULT("\"weight_map\"");
}

/* Values of another model: loaded in place of the shards, nothing would tell. */
Test(model_folder, a_file_dropped_beside_sealed_shards_is_not_loaded)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_OK), "%s",
              kd_fault_text());
    numbered_save("n", numbered_config(&kd_model_llama), KD_F32);
    cr_assert(rename("n/model.safetensors", "m/model.safetensors") == 0);
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m/manifest.json does not list model.safetensors");
}

Test(model_folder, a_manifest_that_lists_nothing_vouches_for_nothing)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    temporary_write("m/manifest.json", "{\"version\": 1, \"files\": {}}");
    cr_expect(eq(int, numbered_load(numbered_config(&kd_model_llama)), KD_ERR_INVALID));
    EXPECT_FAULT("m/manifest.json does not list config.json");
}

static kd_status load_head(void)
{
    kd_tensor head;
    const kd_status st = kd_model_folder_load_lm_head("m", numbered_backend(), KD_F32, &head);
    if (!st) {
        numbered_backend()->ops->free(numbered_backend(), head.data);
    }
    return st;
}

static void flip_last_bit(const char *path)
{
    char *bytes;
    size_t size;
    cr_assert(eq(int, kd_file_read(path, 1 << 20, &bytes, &size), KD_OK));
    bytes[size - 1] ^= 1;
    cr_assert(eq(int, kd_file_replace(path, bytes, size), KD_OK));
    free(bytes);
}

Test(model_folder, the_lm_head_of_a_sealed_folder_is_verified)
{
    numbered_save("m", numbered_config(&kd_model_llama), KD_F32);
    put_shards(NULL, NULL);
    cr_assert(eq(int, kd_manifest_write("m"), KD_OK));
    cr_expect(eq(int, load_head(), KD_OK), "%s", kd_fault_text());
    flip_last_bit("m/one.safetensors");
    cr_expect(eq(int, load_head(), KD_OK), "the head is not in this one");
    flip_last_bit("m/two.safetensors");
    cr_expect(eq(int, load_head(), KD_ERR_INVALID));
    EXPECT_FAULT("m/two.safetensors has the hash");
    temporary_write("m/manifest.json", "{\"version\": 1, \"files\": {}}");
    cr_expect(eq(int, load_head(), KD_ERR_INVALID));
    EXPECT_FAULT("does not list config.json");
}
