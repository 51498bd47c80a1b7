/* The final model: what an export replaces, what it leaves alone, and that it is sealed. */
#include <criterion/criterion.h>

#include <stdlib.h>

#include "base/file.h"
#include "base/log.h"
#include "format/manifest.h"
#include "format/model_folder.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "tests/support/tiny_train.h"
#include "train/checkpoint.h"

TestSuite(model_export, .init = temporary_enter, .fini = temporary_leave);

static tiny_train *start(void)
{
    tiny_settings settings;
    tiny_settings_init(&settings);
    return tiny_train_create(&kd_model_mixtral, KD_BF16, &settings);
}

/* One step: other weights. */
static void train(tiny_train *t)
{
    tiny_batch batch = tiny_batch_create(0);
    const kd_batch whole = tiny_batch_whole(&batch);
    kd_step_result result;
    cr_assert_eq(tiny_train_step(t, 0, &whole, 1, &result), KD_OK);
    cr_assert(result.updated);
}

static kd_status export(const tiny_train *t, const char *name)
{
    return kd_model_export(temporary_path("%s", name), kd_trainer_parameters(t->trainer), NULL,
                           NULL);
}

Test(model_export, replaces_its_own_folder_and_an_empty_one)
{
    tiny_train *t = start();
    kd_model_config config;
    cr_assert_eq(kd_folder_make(temporary_path("out/final")), KD_OK);
    cr_assert_eq(export(t, "out/final/"), KD_OK);
    train(t);
    cr_assert_eq(export(t, "out/final"), KD_OK);
    cr_expect_not(kd_file_exists(temporary_path("out/.final.tmp")));
    cr_expect_eq(kd_manifest_verify(temporary_path("out/final")), KD_OK);
    cr_expect_eq(kd_model_folder_config(temporary_path("out/final"), &config), KD_OK);
    cr_assert_eq(export(t, "new/final"), KD_OK);
    cr_expect(temporary_same(temporary_path("out/final/model.safetensors"),
                             temporary_path("new/final/model.safetensors")));
    tiny_train_destroy(t);
}

Test(model_export, leaves_a_folder_alone_that_holds_what_is_not_its_own)
{
    tiny_train *t = start();
    cr_assert_eq(kd_folder_make(temporary_path("work")), KD_OK);
    temporary_write(temporary_path("work/thesis.txt"), "three years");
    kd_fault_quiet(1);
    cr_expect_eq(export(t, "work"), KD_ERR_INVALID);
    EXPECT_FAULT("work is not replaced: it holds \"thesis.txt\"");
    cr_expect(kd_file_exists(temporary_path("work/thesis.txt")));

    cr_assert_eq(export(t, "final"), KD_OK);
    temporary_write(temporary_path("final/notes"), "beside it");
    cr_expect_eq(export(t, "final"), KD_ERR_INVALID);
    EXPECT_FAULT("it holds \"notes\"");
    cr_expect(kd_file_exists(temporary_path("final/notes")));
    cr_expect_not(kd_file_exists(temporary_path(".final.tmp")));
    tiny_train_destroy(t);
}

/* The user is the note's text. */
static kd_status add_note(void *user, const char *folder)
{
    char *path = kd_path_join(folder, "note");
    const kd_status st = kd_file_replace(path, user, 1);
    free(path);
    return st;
}

static kd_status refuse(void *user, const char *folder)
{
    (void)user;
    return kd_fail(KD_ERR_IO, "no files for %s", folder);
}

Test(model_export, files_added_to_it_are_sealed_with_it)
{
    tiny_train *t = start();
    const kd_parameters *params = kd_trainer_parameters(t->trainer);
    cr_assert_eq(kd_model_export(temporary_path("final"), params, add_note, "x"), KD_OK);
    cr_expect_eq(kd_manifest_verify(temporary_path("final")), KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(kd_model_export(temporary_path("final"), params, refuse, NULL), KD_ERR_IO);
    cr_expect_eq(kd_model_export(temporary_path("other"), params, refuse, NULL), KD_ERR_IO);
    cr_expect_eq(kd_manifest_verify(temporary_path("final")), KD_OK, "what was there still is");
    cr_expect_not(kd_file_exists(temporary_path("other")));
    cr_expect_not(kd_file_exists(temporary_path(".other.tmp")));
    cr_assert_eq(kd_file_replace(temporary_path("final/note"), "y", 1), KD_OK);
    cr_expect_eq(kd_manifest_verify(temporary_path("final")), KD_ERR_INVALID);
    tiny_train_destroy(t);
}
