/* The folder of the checkpoints: whose fault it is that it cannot be used, and that this is no empty one. */
#include <criterion/criterion.h>

#include <dirent.h>
#include <errno.h>
#include <unistd.h>

#include "base/log.h"
#include "base/progress.h"
#include "tests/support/fault.h"
#include "tests/support/temporary.h"
#include "tests/support/tiny_train.h"
#include "train/checkpoint.h"

TestSuite(checkpoint_folder, .init = temporary_enter, .fini = temporary_leave);

static bool folders_fail;

struct dirent *__real_readdir(DIR *folder);
struct dirent *__wrap_readdir(DIR *folder);

/* By the linker's --wrap; a share that was lost does so in the middle of a folder. */
struct dirent *__wrap_readdir(DIR *folder)
{
    if (folders_fail) {
        errno = EIO;
        return NULL;
    }
    return __real_readdir(folder);
}

Test(checkpoint_folder, a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one)
{
    kd_checkpoint_state state;
    char untouched, *path = &untouched;
    kd_fault_quiet(1);
    folders_fail = true;
    cr_expect_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &state), KD_ERR_IO);
    cr_expect_eq(kd_checkpoint_prune(temporary_folder(), 1, 1), KD_ERR_IO);
    folders_fail = false;
    cr_assert_eq(symlink("loop", temporary_path("loop")), 0);
    cr_expect_eq(kd_checkpoint_find_latest(temporary_path("loop"), &path, &state), KD_ERR_INVALID);
    cr_expect_eq(path, &untouched);
}

/* What could not be verified before the process ends may be sound. */
Test(checkpoint_folder, one_that_there_is_no_time_to_verify_is_not_passed_over)
{
    kd_checkpoint_state state;
    char untouched, *path = &untouched;
    const kd_checkpoint_state made = {.step = 1};
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    kd_progress_stop();
    cr_assert_eq(
        kd_checkpoint_save(temporary_folder(), kd_trainer_optimizer(t->trainer), &made, NULL),
        KD_OK);
    kd_fault_quiet(1);
    cr_expect_eq(kd_checkpoint_find_latest(temporary_folder(), &path, &state), KD_ERR_STOPPED);
    cr_expect_eq(path, &untouched);
    tiny_train_destroy(t);
}

Test(checkpoint_folder, a_folder_that_cannot_be_made_is_named)
{
    tiny_train *t = tiny_train_create(&kd_model_mixtral, KD_F32, NULL);
    const kd_checkpoint_state state = {.step = 1};
    temporary_write(temporary_path("file"), "x");
    kd_fault_quiet(1);
    cr_expect_eq(kd_checkpoint_save(temporary_path("file/below"), kd_trainer_optimizer(t->trainer),
                                    &state, NULL),
                 KD_ERR_INVALID);
    EXPECT_FAULT("/file");
    cr_expect_eq(kd_model_export(temporary_path("file/final"), kd_trainer_parameters(t->trainer),
                                 NULL, NULL),
                 KD_ERR_INVALID);
    EXPECT_FAULT("/file");
    tiny_train_destroy(t);
}
